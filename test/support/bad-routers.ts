// Ways to choose, capacities and noise that contradict themselves or each other, as data: `route` refuses them, and a layer at
// construction, in the same words. Of 12 experts two are chosen, unless the experts choose.

import type { BadOption } from './bad-options.ts';

const ANY = 'an integer from 1 to 2147483647';
const SEED = 'an integer from 0 to 9007199254740991';
const ROWS = 'either tokensPerExpert or factor';
const FINITE = 'expected a finite number';
const GROUPS = { count: 4, top: 2 } as const;

/** Rows per expert are given in the same words with a capacity and with expert choice. */
const badRows = (name: string, keys: string): BadOption[] => {
  const rows = (change: object) => ({ [name]: change });
  return [
    [`${name}: no rows per expert`, rows({}), `${name}: expected ${ROWS}, got neither`],
    [
      `${name}: undefined rows per expert`,
      rows({ tokensPerExpert: undefined, per: 'batch' }),
      `${name}: expected ${ROWS}, got neither`,
    ],
    [
      `${name}: a number of rows and a factor`,
      rows({ tokensPerExpert: 4, factor: 1.25 }),
      `${name}: expected ${ROWS}, got both`,
    ],
    [
      `${name}: a fraction of a row`,
      rows({ tokensPerExpert: 1.5 }),
      `${name}.tokensPerExpert: expected ${ANY}, got 1.5`,
    ],
    [`${name}: a factor of 0`, rows({ factor: 0 }), `${name}.factor: expected a number above 0, got 0`],
    [
      `${name}: a negative factor`,
      rows({ factor: -1.25 }),
      `${name}.factor: expected a number above 0, got -1.25`,
    ],
    [`${name}: a factor NaN`, rows({ factor: Number.NaN }), `${name}.factor: ${FINITE}, got NaN`],
    [`${name}: an infinite factor`, rows({ factor: Infinity }), `${name}.factor: ${FINITE}, got Infinity`],
    [`${name}: a factor as text`, rows({ factor: '1.25' }), `${name}.factor: ${FINITE}, got "1.25"`],
    [
      `${name}: per token`,
      rows({ factor: 1, per: 'token' }),
      `${name}.per: expected one of batch, sequence, got "token"`,
    ],
    [
      `${name}: an unknown fate of what is dropped`,
      rows({ factor: 1, dropped: 'pass' }),
      `${name}.dropped: expected one of zero, residual, got "pass"`,
    ],
    [
      `${name}: an unknown key`,
      rows({ capacityFactor: 1 }),
      `${name}: expected only the keys ${keys}, got "capacityFactor"`,
    ],
  ];
};

const noise = (change: object) => ({ noise: change });
const anneal = (change: object) => noise({ kind: 'gumbel', anneal: { steps: 10, ...change } });
const NOISE: BadOption[] = [
  ['noise as a number', { noise: 0.01 }, 'noise: expected an object, got 0.01'],
  ['noise off by value', { noise: false }, 'noise: expected an object, got false'],
  [
    'noise of no kind',
    noise({ eps: 0.01 }),
    'noise.kind: expected one of jitter, gumbel, noisyTopK, got undefined',
  ],
  [
    'noise of an unknown kind',
    noise({ kind: 'gaussian' }),
    'noise.kind: expected one of jitter, gumbel, noisyTopK, got "gaussian"',
  ],
  ['jitter of no size', noise({ kind: 'jitter' }), `noise.eps: ${FINITE}, got undefined`],
  ['jitter NaN', noise({ kind: 'jitter', eps: Number.NaN }), `noise.eps: ${FINITE}, got NaN`],
  ['negative jitter', noise({ kind: 'jitter', eps: -0.1 }), 'noise.eps: expected a number ≥ 0, got -0.1'],
  [
    'jitter with a scale',
    noise({ kind: 'jitter', eps: 0.1, scale: 1 }),
    'noise: expected only the keys kind, seed, anneal, eps, got "scale"',
  ],
  [
    'Gumbel noise with an eps',
    noise({ kind: 'gumbel', eps: 1 }),
    'noise: expected only the keys kind, seed, anneal, scale, got "eps"',
  ],
  [
    'infinite Gumbel noise',
    noise({ kind: 'gumbel', scale: Infinity }),
    `noise.scale: ${FINITE}, got Infinity`,
  ],
  [
    'noisy top-k with a scale',
    noise({ kind: 'noisyTopK', scale: 1 }),
    'noise: expected only the keys kind, seed, anneal, got "scale"',
  ],
  ['a negative seed', noise({ kind: 'gumbel', seed: -1 }), `noise.seed: expected ${SEED}, got -1`],
  ['half a seed', noise({ kind: 'gumbel', seed: 0.5 }), `noise.seed: expected ${SEED}, got 0.5`],
  [
    'a seed past what a number holds',
    noise({ kind: 'gumbel', seed: 2 ** 53 }),
    `noise.seed: expected ${SEED}, got 9007199254740992`,
  ],
  [
    'annealing as a number of steps',
    noise({ kind: 'gumbel', anneal: 100 }),
    'noise.anneal: expected an object, got 100',
  ],
  [
    'annealing over no steps',
    anneal({ steps: undefined }),
    `noise.anneal.steps: expected ${ANY}, got undefined`,
  ],
  ['annealing over 0 steps', anneal({ steps: 0 }), `noise.anneal.steps: expected ${ANY}, got 0`],
  [
    'annealing of an unknown shape',
    anneal({ shape: 'step' }),
    'noise.anneal.shape: expected one of linear, cosine, exponential, got "step"',
  ],
  [
    'annealing to less than nothing',
    anneal({ to: -0.5 }),
    'noise.anneal.to: expected a number ≥ 0, got -0.5',
  ],
  ['annealing to NaN', anneal({ to: Number.NaN }), `noise.anneal.to: ${FINITE}, got NaN`],
  [
    'exponential annealing to nothing',
    anneal({ shape: 'exponential' }),
    'noise.anneal.to: expected a number above 0 with exponential, got 0',
  ],
  [
    'an unknown key of annealing',
    anneal({ from: 1 }),
    'noise.anneal: expected only the keys steps, to, shape, got "from"',
  ],
];

/** Beside K = 2. */
export const CHOICE_OPTIONS: BadOption[] = [
  ...badRows('capacity', 'tokensPerExpert, factor, per, dropped, dropPolicy'),
  [
    'an unknown drop policy',
    { capacity: { factor: 1, dropPolicy: 'random' } },
    'capacity.dropPolicy: expected one of position, probability, got "random"',
  ],
  ['an unknown level', { level: 'batch' }, 'level: expected one of token, sequence, got "batch"'],
  ['p of 0', { topP: 0 }, 'topP: expected a number above 0, at most 1, got 0'],
  ['p above 1', { topP: 1.01 }, 'topP: expected a number above 0, at most 1, got 1.01'],
  ['p below 0', { topP: -0.5 }, 'topP: expected a number above 0, at most 1, got -0.5'],
  ['p NaN', { topP: Number.NaN }, `topP: ${FINITE}, got NaN`],
  ['p as text', { topP: '0.9' }, `topP: ${FINITE}, got "0.9"`],
  [
    'top-p with sigmoid',
    { topP: 0.5, score: 'sigmoid' },
    'topP: expected score: softmax beside it, got score: sigmoid',
  ],
  [
    'top-p with the identity',
    { topP: 0.5, score: 'identity' },
    'topP: expected score: softmax beside it, got score: identity',
  ],
  [
    'top-p with sparsemixer',
    { topP: 0.5, score: 'sparsemixer' },
    'topP: expected score: softmax beside it, got score: sparsemixer',
  ],
  [
    'top-p of a softmax over the selected',
    { topP: 0.5, softmaxOver: 'selected' },
    'softmaxOver: expected nothing with topP, got selected',
  ],
  [
    'softmaxOver with the identity',
    { score: 'identity', softmaxOver: 'all' },
    'softmaxOver: expected score: softmax beside it, got score: identity',
  ],
  [
    'K beside expert choice',
    { expertChoice: { factor: 1 } },
    'topK: expected nothing with expertChoice, got 2',
  ],
  ...NOISE,
];

const choosing = (change: object) => ({ expertChoice: { factor: 1 }, ...change });
/** Where experts choose: without K. */
export const EXPERT_CHOICE_OPTIONS: BadOption[] = [
  ...badRows('expertChoice', 'tokensPerExpert, factor, per, dropped'),
  ['expert choice as a number', { expertChoice: 4 }, 'expertChoice: expected an object, got 4'],
  ['expert choice by value', { expertChoice: true }, 'expertChoice: expected an object, got true'],
  [
    'a drop policy',
    { expertChoice: { factor: 1, dropPolicy: 'position' } },
    'expertChoice: expected only the keys tokensPerExpert, factor, per, dropped, got "dropPolicy"',
  ],
  [
    'a capacity',
    choosing({ capacity: { factor: 1 } }),
    'capacity: expected nothing with expertChoice, got capacity',
  ],
  ['groups', choosing({ groups: GROUPS }), 'groups: expected nothing with expertChoice, got groups'],
  ['top-p', choosing({ topP: 0.5 }), 'topP: expected nothing with expertChoice, got 0.5'],
  ['normalize', choosing({ normalize: true }), 'normalize: expected nothing with expertChoice, got true'],
  [
    'a softmax over the selected',
    choosing({ softmaxOver: 'selected' }),
    'softmaxOver: expected nothing with expertChoice, got selected',
  ],
  [
    'sparsemixer',
    choosing({ score: 'sparsemixer' }),
    'expertChoice: expected nothing with sparsemixer, got expertChoice',
  ],
  [
    'sequences that choose as one',
    choosing({ level: 'sequence' }),
    'level: expected nothing with expertChoice, got sequence',
  ],
];

/** Where the experts are given. */
export const GIVEN_OPTIONS: BadOption[] = [
  ['groups', { groups: GROUPS }, 'groups: expected nothing with given indices, got groups'],
  ['top-p', { topP: 0.5 }, 'topP: expected nothing with given indices, got 0.5'],
  [
    'sparsemixer',
    { score: 'sparsemixer' },
    'score: expected another score than sparsemixer with given indices, got sparsemixer',
  ],
];
