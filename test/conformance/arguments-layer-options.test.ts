// Options of the fused layer and of MoELayer that contradict each other or the shapes.

import { afterEach } from 'vitest';
import { MoELayer, type MoELayerConfig, moeBackward, moeForward } from '../../src/index.ts';
import { type BadCall, describeBadCalls, floats, ints, onOtherDevice, using } from '../support/bad-calls.ts';
import { ACTIVATION_OPTIONS, ROUTER_OPTIONS } from '../support/bad-options.ts';
import { CHOICE_OPTIONS, EXPERT_CHOICE_OPTIONS, GIVEN_OPTIONS } from '../support/bad-routers.ts';

const [T, H, I, E, K] = [3, 4, 6, 12, 2];
const ANY = 'an integer from 1 to 2147483647';
const GROUPS = { count: 4, top: 2 } as const;

const shared = () => ({ gate: floats([5, H]), up: floats([5, H]), down: floats([H, 5]) });
const forwardArgs = () => ({
  x: floats([T, H]),
  router: { weight: floats([E, H]), topK: K },
  experts: { gateUp: floats([E, 2 * I, H]), down: floats([E, H, I]) },
});
const badForward = (change: () => object) => using(moeForward, forwardArgs, change);
const badShared = (change: () => object) => badForward(() => ({ shared: { ...shared(), ...change() } }));

const FORWARD: BadCall[] = [
  [
    'a weight on neither side',
    badForward(() => ({ applyWeightTo: 'gate' })),
    'ERR_INVALID_ARGUMENT',
    'applyWeightTo: expected one of output, input, got "gate"',
  ],
  [
    'logits without the identity experts',
    badForward(() => ({ router: { weight: floats([E, H]), topK: K, identityExperts: 2 } })),
    'ERR_SHAPE',
    'router.weight: expected shape [14, 4], got [12, 4]',
  ],
  [
    'identity experts as text',
    badForward(() => ({ router: { weight: floats([E, H]), topK: K, identityExperts: '2' } })),
    'ERR_INVALID_ARGUMENT',
    /router\.identityExperts: expected an integer from 0 to \d+, got "2"$/,
  ],
  [
    'an unknown parameter of the router',
    badForward(() => ({ router: { weight: floats([E, H]), topK: K, selection_bias: floats([E]) } })),
    'ERR_INVALID_ARGUMENT',
    /^router: expected only the keys weight, bias, noiseWeight, loraA, loraB, selectionBias, expertScale, .*, got "selection_bias"$/,
  ],
  [
    'dropped slots of another shape',
    badForward(() => ({
      router: undefined,
      routing: { indices: ints([T, K]), weights: floats([T, K]), dropped: ints([T, 1]) },
    })),
    'ERR_SHAPE',
    'routing.dropped: expected shape [3, 2], got [3, 1]',
  ],
  [
    'a shared expert without down',
    badShared(() => ({ down: undefined })),
    'ERR_INVALID_ARGUMENT',
    'shared.down: expected a Tensor, got undefined',
  ],
  [
    'a shared expert without gate',
    badShared(() => ({ gate: undefined })),
    'ERR_INVALID_ARGUMENT',
    'shared.gate: expected a Tensor, got undefined',
  ],
  [
    'a shared gate with an ungated activation',
    badForward(() => ({
      activation: 'relu',
      experts: { up: floats([E, I, H]), down: floats([E, H, I]) },
      shared: shared(),
    })),
    'ERR_INVALID_ARGUMENT',
    'shared.gate: expected nothing, for relu, got a tensor',
  ],
  [
    'a shared up of rank 3',
    badShared(() => ({ up: floats([1, 5, H]) })),
    'ERR_SHAPE',
    'shared.up: expected shape [5, 4], got [1, 5, 4]',
  ],
  [
    'shared halves of different widths',
    badShared(() => ({ gate: floats([6, H]) })),
    'ERR_SHAPE',
    'shared.gate: expected shape [5, 4], got [6, 4]',
  ],
  [
    'a transposed shared down',
    badShared(() => ({ down: floats([5, H]) })),
    'ERR_SHAPE',
    'shared.down: expected shape [4, *], got [5, 4]',
  ],
  [
    'a shared expert of another dtype',
    badShared(() => ({ up: floats([5, H], 'float16') })),
    'ERR_DTYPE',
    'shared.up: expected dtype float32, got float16',
  ],
  [
    'a shared router of two columns',
    badShared(() => ({ router: floats([2, H]) })),
    'ERR_SHAPE',
    'shared.router: expected shape [1, 4], got [2, 4]',
  ],
  [
    'a shared bias',
    badShared(() => ({ upBias: floats([5]) })),
    'ERR_INVALID_ARGUMENT',
    'shared: expected only the keys gate, up, down, router, weights, got "upBias"',
  ],
  [
    'a shared expert elsewhere',
    badShared(() => ({ router: onOtherDevice(floats([1, H])) })),
    'ERR_DEVICE_MISMATCH',
    'shared.router: expected device cpu (that of x), got cuda:7',
  ],
  [
    'routed experts elsewhere beside a shared one',
    badForward(() => ({
      experts: { gateUp: floats([E, 2 * I, H]), down: onOtherDevice(floats([E, H, I])) },
      shared: shared(),
    })),
    'ERR_DEVICE_MISMATCH',
    'down: expected device cpu (that of x), got cuda:7',
  ],
];

const made: Disposable[] = [];
afterEach(() => {
  for (const result of made) result[Symbol.dispose]();
  made.length = 0;
});

const withShared = () => ({ shared: shared() });
const badBackward = (change: () => object, layer?: () => object) => () => {
  const { y, saved } = moeForward({ ...forwardArgs(), save: 'activations', ...layer?.() });
  made.push(y, saved!);
  const args = { dy: floats([T, H]), saved: saved!, ...change() };
  return () => moeBackward(args);
};
const into = (accumulateInto: () => object) => badBackward(() => ({ accumulateInto: accumulateInto() }));

const NOTHING = 'expected nothing: this gradient is not computed, got a tensor';
const BACKWARD: BadCall[] = [
  [
    'the gradient of an expert scale that was not given',
    into(() => ({ routerExpertScale: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.routerExpertScale: ${NOTHING}`,
  ],
  [
    'the gradient of a shared expert that was not given',
    into(() => ({ sharedUp: floats([5, H]) })),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.sharedUp: ${NOTHING}`,
  ],
  [
    'the gradient of a shared router that was not given',
    badBackward(() => ({ accumulateInto: { sharedRouter: floats([1, H]) } }), withShared),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.sharedRouter: ${NOTHING}`,
  ],
  [
    'the gradient of a shared down of another shape',
    badBackward(() => ({ accumulateInto: { sharedDown: floats([5, H]) } }), withShared),
    'ERR_SHAPE',
    'accumulateInto.sharedDown: expected shape [4, 5], got [5, 4]',
  ],
  [
    'the gradient of a selection bias',
    into(() => ({ routerSelectionBias: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    /^accumulateInto: expected only the keys .*, got "routerSelectionBias"$/,
  ],
];

const config = (): MoELayerConfig => ({ hidden: H, intermediate: I, experts: E, topK: K });
const badConfig = (change: object) => () => () => new MoELayer({ ...config(), ...change });
const refused = (title: string, change: object, sentence: string | RegExp): BadCall => [
  title,
  badConfig(change),
  'ERR_INVALID_ARGUMENT',
  typeof sentence === 'string' ? `config.${sentence}` : sentence,
];

const LAYER: BadCall[] = [
  ...[...ROUTER_OPTIONS, ...CHOICE_OPTIONS].map(([title, router, sentence]) =>
    refused(title, { router }, `router.${sentence}`),
  ),
  ...EXPERT_CHOICE_OPTIONS.map(([title, change, sentence]) =>
    refused(
      `expert choice with ${title}`,
      { topK: undefined, router: { expertChoice: { factor: 1 }, ...change } },
      `router.${sentence}`,
    ),
  ),
  ...GIVEN_OPTIONS.map(([title, change, sentence]) =>
    refused(`hash with ${title}`, { router: { hash: true, ...change } }, `router.${sentence}`),
  ),
  refused(
    'hash and expert choice',
    { topK: undefined, router: { hash: true, expertChoice: { factor: 1 } } },
    'router.expertChoice: expected nothing with given indices, got expertChoice',
  ),
  refused(
    'hash with a selection bias',
    { router: { hash: true, selectionBias: true } },
    'router.selectionBias: expected false with hash, got true',
  ),
  refused('hash as a table', { router: { hash: [1, 2] } }, 'router.hash: expected a boolean, got [1, 2]'),
  refused(
    'expert choice with a selection bias',
    { topK: undefined, router: { expertChoice: { factor: 1 }, selectionBias: true } },
    'router.selectionBias: expected false with expertChoice, got true',
  ),
  refused(
    'expert choice with identity experts',
    { topK: undefined, identityExperts: 2, router: { expertChoice: { factor: 1 } } },
    'router.identityExperts: expected nothing with expertChoice, got 2',
  ),
  refused(
    'neither K nor expert choice',
    { topK: undefined },
    'topK: expected an integer from 1 to 12, got undefined',
  ),
  refused(
    'indices in the configuration',
    { router: { indices: 3 } },
    /^config\.router: expected only the keys .*, got "indices"$/,
  ),
  ...ACTIVATION_OPTIONS.map(([title, change, sentence]) => refused(title, change, sentence)),
  refused(
    'K above all experts',
    { topK: 15, identityExperts: 2 },
    'topK: expected an integer from 1 to 14, got 15',
  ),
  refused(
    'half an identity expert',
    { identityExperts: 0.5 },
    'identityExperts: expected an integer from 0 to 2147483647, got 0.5',
  ),
  refused(
    'groups that do not divide all experts',
    { identityExperts: 1, router: { groups: GROUPS } },
    'router.groups.count: expected a divisor of 13 experts, got 4',
  ),
  refused(
    'sparsemixer with K = 3',
    { topK: 3, router: { score: 'sparsemixer' } },
    'router.topK: expected 2 with sparsemixer, got 3',
  ),
  refused(
    'sparsemixer with a selection bias',
    { router: { score: 'sparsemixer', selectionBias: true } },
    'router.selectionBias: expected false with sparsemixer, got true',
  ),
  refused(
    'a selection bias by value',
    { router: { selectionBias: 0.1 } },
    'router.selectionBias: expected a boolean, got 0.1',
  ),
  refused(
    'an expert scale by value',
    { router: { expertScale: [1, 2] } },
    'router.expertScale: expected a boolean, got [1, 2]',
  ),
  refused(
    'weights applied nowhere',
    { applyWeightTo: false },
    'applyWeightTo: expected one of output, input, got false',
  ),
  refused('shared as a number', { shared: 2 }, 'shared: expected an object, got 2'),
  refused('shared 0', { shared: 0 }, 'shared: expected an object, got 0'),
  refused(
    'a shared expert of no width',
    { shared: {} },
    `shared.intermediate: expected ${ANY}, got undefined`,
  ),
  refused(
    'a shared gate of another kind',
    { shared: { intermediate: 4, gate: 'softmax' } },
    'shared.gate: expected one of sigmoid, weights, got "softmax"',
  ),
];

describeBadCalls('moeForward', FORWARD);
describeBadCalls('moeBackward', BACKWARD);
describeBadCalls('MoELayer', LAYER);
