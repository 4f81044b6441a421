// Options that contradict each other, as data: every function that takes them refuses them in the same words. Of 12 experts,
// two are chosen, and the activation is `swiglu` unless an option says otherwise.

const ANY = 'an integer from 1 to 2147483647';
const KEYS_OF_GROUPS = 'count, top, score, maskValue';

/** An option's title, what replaces the good one, and what is said. */
export type BadOption = [title: string, change: object, sentence: string];

const GROUPS = { count: 4, top: 2 } as const;
const groups = (change: object) => ({ groups: { ...GROUPS, ...change } });
const capacity = (change: object) => ({ capacity: { tokensPerExpert: 4, ...change } });

/** Each is refused by `route`, and by a layer at construction. */
export const ROUTER_OPTIONS: BadOption[] = [
  [
    'negative jitterEps',
    { score: 'sparsemixer', jitterEps: -0.1 },
    'jitterEps: expected a number ≥ 0, got -0.1',
  ],
  [
    'jitterEps NaN',
    { score: 'sparsemixer', jitterEps: Number.NaN },
    'jitterEps: expected a finite number, got NaN',
  ],
  [
    'jitterEps with softmax',
    { jitterEps: 0.01 },
    'jitterEps: expected score: sparsemixer beside it, got score: softmax',
  ],
  [
    'softmaxOver with sparsemixer',
    { score: 'sparsemixer', softmaxOver: 'all' },
    'softmaxOver: expected score: softmax beside it, got score: sparsemixer',
  ],
  [
    'softmaxOver with sqrtsoftplus',
    { score: 'sqrtsoftplus', softmaxOver: 'selected' },
    'softmaxOver: expected score: softmax beside it, got score: sqrtsoftplus',
  ],
  [
    'groups with sparsemixer',
    { score: 'sparsemixer', groups: GROUPS },
    'groups: expected nothing with sparsemixer, got groups',
  ],
  ['groups as a number', { groups: 4 }, 'groups: expected an object, got 4'],
  ['groups null', { groups: null }, 'groups: expected an object, got null'],
  ['groups false', { groups: false }, 'groups: expected an object, got false'],
  [
    'an unknown key of groups',
    groups({ size: 3 }),
    `groups: expected only the keys ${KEYS_OF_GROUPS}, got "size"`,
  ],
  ['no count', groups({ count: undefined }), 'groups.count: expected an integer from 1 to 12, got undefined'],
  ['no group', groups({ count: 0 }), 'groups.count: expected an integer from 1 to 12, got 0'],
  [
    'more groups than experts',
    groups({ count: 24 }),
    'groups.count: expected an integer from 1 to 12, got 24',
  ],
  [
    'a count that does not divide E',
    groups({ count: 5 }),
    'groups.count: expected a divisor of 12 experts, got 5',
  ],
  ['no top', groups({ top: undefined }), 'groups.top: expected an integer from 1 to 4, got undefined'],
  ['no group kept', groups({ top: 0 }), 'groups.top: expected an integer from 1 to 4, got 0'],
  [
    'more groups kept than there are',
    groups({ top: 5 }),
    'groups.top: expected an integer from 1 to 4, got 5',
  ],
  ['half a group', groups({ top: 1.5 }), 'groups.top: expected an integer from 1 to 4, got 1.5'],
  [
    'fewer members than K',
    groups({ count: 12, top: 1 }),
    'groups.top: expected groups with at least topK = 2 members in all, got 1 of 1',
  ],
  [
    'an unknown group score',
    groups({ score: 'mean' }),
    'groups.score: expected one of max, top2sum, got "mean"',
  ],
  [
    'the two best of groups of one',
    groups({ count: 12, top: 3, score: 'top2sum' }),
    'groups.score: expected max for groups of one expert, got top2sum',
  ],
  ['another mask value', groups({ maskValue: -1 }), 'groups.maskValue: expected 0 or -Infinity, got -1'],
  [
    'a mask value NaN',
    groups({ maskValue: Number.NaN }),
    'groups.maskValue: expected 0 or -Infinity, got NaN',
  ],
  [
    'a mask value as text',
    groups({ maskValue: '-inf' }),
    'groups.maskValue: expected 0 or -Infinity, got "-inf"',
  ],
  ['capacity as a number', { capacity: 4 }, 'capacity: expected an object, got 4'],
  ['capacity 0', { capacity: 0 }, 'capacity: expected an object, got 0'],
  [
    'a capacity of nothing',
    capacity({ tokensPerExpert: 0 }),
    `capacity.tokensPerExpert: expected ${ANY}, got 0`,
  ],
  [
    'a fractional capacity',
    capacity({ tokensPerExpert: 1.25 }),
    `capacity.tokensPerExpert: expected ${ANY}, got 1.25`,
  ],
  [
    'an infinite capacity',
    capacity({ tokensPerExpert: Infinity }),
    `capacity.tokensPerExpert: expected ${ANY}, got Infinity`,
  ],
  [
    'normalizeMin without normalize',
    { normalizeMin: 1 },
    'normalizeMin: expected normalize: true beside it, got normalize: false',
  ],
  [
    'normalizeEps beside normalize: false',
    { normalize: false, normalizeEps: 0 },
    'normalizeEps: expected normalize: true beside it, got normalize: false',
  ],
  [
    'a negative normalizeMin',
    { normalize: true, normalizeMin: -1 },
    'normalizeMin: expected a number ≥ 0, got -1',
  ],
  [
    'normalizeEps as text',
    { normalize: true, normalizeEps: '1e-20' },
    'normalizeEps: expected a finite number, got "1e-20"',
  ],
  ['a scale NaN', { scale: Number.NaN }, 'scale: expected a finite number, got NaN'],
];

/** Each is refused with twelve gated experts of `swiglu`, unless it names another. */
export const ACTIVATION_OPTIONS: BadOption[] = [
  [
    'a limit on relu',
    { activation: 'relu', activationLimit: 7 },
    'activationLimit: expected activation swiglu or swiglu_clamped beside it, got relu',
  ],
  [
    'a limit on geglu',
    { activation: 'geglu', activationLimit: 7 },
    'activationLimit: expected activation swiglu or swiglu_clamped beside it, got geglu',
  ],
  ['a limit of 0', { activationLimit: 0 }, 'activationLimit: expected a number above 0, got 0'],
  ['a negative limit', { activationLimit: -7 }, 'activationLimit: expected a number above 0, got -7'],
  [
    'an infinite limit',
    { activationLimit: Infinity },
    'activationLimit: expected a finite number, got Infinity',
  ],
  ['a limit as text', { activationLimit: '7' }, 'activationLimit: expected a finite number, got "7"'],
  [
    'an alpha on swiglu',
    { activationAlpha: 1.702 },
    'activationAlpha: expected activation swiglu_clamped beside it, got swiglu',
  ],
  [
    'an up shift on swiglu',
    { activationUpShift: 1 },
    'activationUpShift: expected activation swiglu_clamped beside it, got swiglu',
  ],
  [
    'an alpha NaN',
    { activation: 'swiglu_clamped', activationAlpha: Number.NaN },
    'activationAlpha: expected a finite number, got NaN',
  ],
  [
    'an infinite up shift',
    { activation: 'swiglu_clamped', activationUpShift: -Infinity },
    'activationUpShift: expected a finite number, got -Infinity',
  ],
];
