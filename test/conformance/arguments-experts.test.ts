// Wrong layouts, low-rank pairs and shared experts, of the fused layer and of MoELayer.

import { afterEach } from 'vitest';
import { MoELayer, type MoELayerConfig, moeBackward, moeForward } from '../../src/index.ts';
import { type BadCall, describeBadCalls, floats, onOtherDevice, using } from '../support/bad-calls.ts';
import { upload } from '../support/tensors.ts';

const [T, H, I, E, K, Is] = [3, 4, 6, 5, 2, 7];
const ANY = 'an integer from 1 to 2147483647';
const NOTHING = 'expected nothing: this gradient is not computed, got a tensor';

const forwardArgs = () => ({
  x: floats([T, H]),
  router: { weight: floats([E, H]), topK: K },
  experts: packed(),
});
const packed = () => ({ gateUp: floats([E, 2 * I, H]), down: floats([E, H, I]) });
const separate = () => ({ gate: floats([E, I, H]), up: floats([E, I, H]), down: floats([E, H, I]) });
const turned = () => ({ gateUp: floats([E, H, 2 * I]), down: floats([E, I, H]), transposed: true });
const ungated = () => ({ up: floats([E, I, H]), down: floats([E, H, I]) });
const downPair = () => ({ downLoraA: floats([E, 3, I]), downLoraB: floats([E, H, 3]) });

const badForward = (change: () => object) => using(moeForward, forwardArgs, change);
const badExperts = (change: () => object, experts: () => object = packed) =>
  badForward(() => ({ experts: { ...experts(), ...change() } }));
const badUngated = (change: () => object) =>
  badForward(() => ({ activation: 'relu', experts: { ...ungated(), ...change() } }));

const LAYOUTS: BadCall[] = [
  [
    'an unknown layout',
    badExperts(() => ({ gateUpLayout: 'packed' })),
    'ERR_INVALID_ARGUMENT',
    'experts.gateUpLayout: expected one of concatenated, interleaved, got "packed"',
  ],
  [
    'interleaved, gate and up apart',
    badExperts(() => ({ gateUpLayout: 'interleaved' }), separate),
    'ERR_INVALID_ARGUMENT',
    'experts.gateUpLayout: expected concatenated unless gate and up are one tensor, got interleaved',
  ],
  [
    'interleaved without gates',
    badUngated(() => ({ gateUpLayout: 'interleaved' })),
    'ERR_INVALID_ARGUMENT',
    'experts.gateUpLayout: expected concatenated unless gate and up are one tensor, got interleaved',
  ],
  [
    'transposed by number',
    badExperts(() => ({ transposed: 1 })),
    'ERR_INVALID_ARGUMENT',
    'experts.transposed: expected a boolean, got 1',
  ],
  [
    'transposed, but not down',
    badExperts(() => ({ down: floats([E, H, I]) }), turned),
    'ERR_SHAPE',
    'experts.down: expected shape [*, *, 4], got [5, 4, 6]',
  ],
  [
    'transposed, but not gateUp',
    badExperts(() => ({ gateUp: floats([E, 2 * I, H]) }), turned),
    'ERR_SHAPE',
    'experts.gateUp: expected shape [5, 4, 12], got [5, 12, 4]',
  ],
  [
    'a transposed bias',
    badExperts(() => ({ downBias: floats([H, E]) }), turned),
    'ERR_SHAPE',
    'experts.downBias: expected shape [5, 4], got [4, 5]',
  ],
  [
    'biases of gate and up in two dtypes',
    badForward(() => ({
      x: floats([T, H], 'float16'),
      experts: {
        ...{ gate: floats([E, I, H], 'float16'), up: floats([E, I, H], 'float16') },
        ...{
          down: floats([E, H, I], 'float16'),
          gateBias: floats([E, I]),
          upBias: floats([E, I], 'float16'),
        },
      },
    })),
    'ERR_DTYPE',
    'experts.upBias: expected dtype float32, got float16',
  ],
];

const PAIRS: BadCall[] = [
  [
    'A without B',
    badExperts(() => ({ downLoraA: floats([E, 3, I]) })),
    'ERR_INVALID_ARGUMENT',
    'experts.downLoraB: expected a tensor beside downLoraA, got undefined',
  ],
  [
    'B without A',
    badExperts(() => ({ gateUpLoraB: floats([E, 2 * I, 3]) })),
    'ERR_INVALID_ARGUMENT',
    'experts.gateUpLoraA: expected a tensor beside gateUpLoraB, got undefined',
  ],
  [
    'two ranks in one pair',
    badExperts(() => ({ ...downPair(), downLoraB: floats([E, H, 2]) })),
    'ERR_SHAPE',
    'experts.downLoraB: expected shape [5, 4, 3], got [5, 4, 2]',
  ],
  [
    'a transposed A',
    badExperts(() => ({ ...downPair(), downLoraA: floats([E, I, 3]) })),
    'ERR_SHAPE',
    'experts.downLoraA: expected shape [5, *, 6], got [5, 6, 3]',
  ],
  [
    'pairs transposed with the weights',
    badExperts(() => ({ downLoraA: floats([E, I, 3]), downLoraB: floats([E, 3, H]) }), turned),
    'ERR_SHAPE',
    'experts.downLoraA: expected shape [5, *, 6], got [5, 6, 3]',
  ],
  [
    'B of half the width',
    badExperts(() => ({ gateUpLoraA: floats([E, 3, H]), gateUpLoraB: floats([E, I, 3]) })),
    'ERR_SHAPE',
    'experts.gateUpLoraB: expected shape [5, 12, 3], got [5, 6, 3]',
  ],
  [
    'a pair of one expert for all',
    badExperts(() => ({ downLoraA: floats([1, 3, I]), downLoraB: floats([1, H, 3]) })),
    'ERR_SHAPE',
    'experts.downLoraA: expected shape [5, *, 6], got [1, 3, 6]',
  ],
  [
    'a pair of rank 0',
    badExperts(() => ({ downLoraA: floats([E, 0, I]), downLoraB: floats([E, H, 0]) })),
    'ERR_SHAPE',
    'experts.downLoraA: expected a rank of at least 1, got 0',
  ],
  [
    'a scale NaN',
    badExperts(() => ({ ...downPair(), loraScale: Number.NaN })),
    'ERR_INVALID_ARGUMENT',
    'experts.loraScale: expected a finite number, got NaN',
  ],
  [
    'a scale as text',
    badExperts(() => ({ ...downPair(), loraScale: '2' })),
    'ERR_INVALID_ARGUMENT',
    'experts.loraScale: expected a finite number, got "2"',
  ],
  [
    'a scale of nothing',
    badExperts(() => ({ loraScale: 2 })),
    'ERR_INVALID_ARGUMENT',
    'experts.loraScale: expected low-rank pairs beside it, got none',
  ],
  [
    'a pair on a gate that is packed',
    badExperts(() => ({ gateLoraA: floats([E, 3, H]), gateLoraB: floats([E, I, 3]) })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected only gateUp, down, their biases and low-rank pairs, for swiglu, got gateLoraA',
  ],
  [
    'a pair on gate and up that are apart',
    badExperts(() => ({ gateUpLoraA: floats([E, 3, H]), gateUpLoraB: floats([E, 2 * I, 3]) }), separate),
    'ERR_INVALID_ARGUMENT',
    'experts: expected only gate, up, down, their biases and low-rank pairs, for swiglu, got gateUpLoraA',
  ],
  [
    'a pair on a gate where there is none',
    badUngated(() => ({ gateLoraA: floats([E, 3, H]), gateLoraB: floats([E, I, 3]) })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected only up, down, their biases and low-rank pairs, for relu, got gateLoraA',
  ],
  [
    'a pair of another narrow dtype',
    badForward(() => ({
      x: floats([T, H], 'bfloat16'),
      experts: {
        ...{ gateUp: floats([E, 2 * I, H], 'bfloat16'), down: floats([E, H, I], 'bfloat16') },
        ...{ downLoraA: floats([E, 3, I], 'float16'), downLoraB: floats([E, H, 3], 'float16') },
      },
    })),
    'ERR_DTYPE',
    'experts.downLoraA: expected dtype float32 or bfloat16, got float16',
  ],
  [
    'a narrow pair beside float32 weights',
    badExperts(() => ({ ...downPair(), downLoraB: floats([E, H, 3], 'bfloat16') })),
    'ERR_DTYPE',
    'experts.downLoraB: expected dtype float32, got bfloat16',
  ],
  [
    'a pair elsewhere',
    badExperts(() => ({ ...downPair(), downLoraB: onOtherDevice(floats([E, H, 3])) })),
    'ERR_DEVICE_MISMATCH',
    'downLoraB: expected device cpu (that of x), got cuda:7',
  ],
];

const shared = () => ({ gate: floats([Is, H]), up: floats([Is, H]), down: floats([H, Is]) });
const several = () => ({ gate: floats([3, Is, H]), up: floats([3, Is, H]), down: floats([3, H, Is]) });
const badShared = (change: () => object, parameters: () => object = shared) =>
  badForward(() => ({ shared: { ...parameters(), ...change() } }));

const SHARED: BadCall[] = [
  [
    'several up with one down',
    badShared(() => ({ down: floats([H, Is]) }), several),
    'ERR_SHAPE',
    'shared.up: expected shape [7, 4], got [3, 7, 4]',
  ],
  [
    'one up with several down',
    badShared(() => ({ down: floats([3, H, Is]) })),
    'ERR_SHAPE',
    'shared.up: expected shape [3, 7, 4], got [7, 4]',
  ],
  [
    'other experts below',
    badShared(() => ({ gate: floats([2, Is, H]) }), several),
    'ERR_SHAPE',
    'shared.gate: expected shape [3, 7, 4], got [2, 7, 4]',
  ],
  [
    'no shared expert',
    badShared(() => ({
      gate: floats([0, Is, H]),
      up: floats([0, Is, H]),
      down: floats([0, H, Is]),
    })),
    'ERR_SHAPE',
    'shared.down: expected at least one expert, got 0',
  ],
  [
    'a router of one for several',
    badShared(() => ({ router: floats([1, H]) }), several),
    'ERR_SHAPE',
    'shared.router: expected shape [3, 4], got [1, 4]',
  ],
  [
    'a weight for each of two, of one',
    badShared(() => ({ weights: floats([2]) })),
    'ERR_SHAPE',
    'shared.weights: expected shape [1], got [2]',
  ],
  [
    'one weight for several',
    badShared(() => ({ weights: floats([1]) }), several),
    'ERR_SHAPE',
    'shared.weights: expected shape [3], got [1]',
  ],
  [
    'weights of integers',
    badShared(() => ({ weights: upload([1], [1], 'int32') })),
    'ERR_DTYPE',
    'shared.weights: expected dtype float32, got int32',
  ],
  [
    'weights by value',
    badShared(() => ({ weights: [1] })),
    'ERR_INVALID_ARGUMENT',
    'shared.weights: expected a Tensor, got [1]',
  ],
  [
    'a transposed shared expert',
    badShared(() => ({ transposed: true })),
    'ERR_INVALID_ARGUMENT',
    'shared: expected only the keys gate, up, down, router, weights, got "transposed"',
  ],
];

const made: Disposable[] = [];
afterEach(() => {
  for (const result of made) result[Symbol.dispose]();
  made.length = 0;
});

const badInto = (accumulateInto: () => object, change: () => object) => () => {
  const { y, saved } = moeForward({ ...forwardArgs(), save: 'activations', ...change() });
  made.push(y, saved!);
  const args = { dy: floats([T, H]), saved: saved!, accumulateInto: accumulateInto() };
  return () => moeBackward(args);
};
const paired = () => ({ experts: { ...packed(), ...downPair() } });

const BACKWARD: BadCall[] = [
  [
    'a frozen weight',
    badInto(() => ({ down: floats([E, H, I]) }), paired),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.down: ${NOTHING}`,
  ],
  [
    'a frozen weight that has no pair of its own',
    badInto(() => ({ gateUp: floats([E, 2 * I, H]) }), paired),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.gateUp: ${NOTHING}`,
  ],
  [
    'a frozen bias',
    badInto(
      () => ({ downBias: floats([E, H]) }),
      () => ({ experts: { ...paired().experts, downBias: floats([E, H]) } }),
    ),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.downBias: ${NOTHING}`,
  ],
  [
    'a pair that was not given',
    badInto(
      () => ({ downLoraA: floats([E, 3, I]) }),
      () => ({}),
    ),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.downLoraA: ${NOTHING}`,
  ],
  [
    'a pair of another rank',
    badInto(() => ({ downLoraB: floats([E, H, 4]) }), paired),
    'ERR_SHAPE',
    'accumulateInto.downLoraB: expected shape [5, 4, 3], got [5, 4, 4]',
  ],
  [
    'a transposed gradient of weights that are not',
    badInto(
      () => ({ down: floats([E, I, H]) }),
      () => ({}),
    ),
    'ERR_SHAPE',
    'accumulateInto.down: expected shape [5, 4, 6], got [5, 6, 4]',
  ],
  [
    'a gradient not transposed of weights that are',
    badInto(
      () => ({ down: floats([E, H, I]) }),
      () => ({ experts: turned() }),
    ),
    'ERR_SHAPE',
    'accumulateInto.down: expected shape [5, 6, 4], got [5, 4, 6]',
  ],
  [
    'shared weights that were not given',
    badInto(
      () => ({ sharedWeights: floats([1]) }),
      () => ({ shared: shared() }),
    ),
    'ERR_INVALID_ARGUMENT',
    `accumulateInto.sharedWeights: ${NOTHING}`,
  ],
  [
    'the gradient of one of several shared experts',
    badInto(
      () => ({ sharedUp: floats([Is, H]) }),
      () => ({ shared: several() }),
    ),
    'ERR_SHAPE',
    'accumulateInto.sharedUp: expected shape [3, 7, 4], got [7, 4]',
  ],
];

const config = (): MoELayerConfig => ({ hidden: H, intermediate: I, experts: E, topK: K });
const refused = (title: string, change: object, sentence: string): BadCall => [
  title,
  () => () => new MoELayer({ ...config(), ...change }),
  'ERR_INVALID_ARGUMENT',
  `config.${sentence}`,
];
const lora = (change: object) => ({ lora: { rank: 2, on: ['down' as const], ...change } });
const ON = 'lora.on: expected some of router, gateUp, down, each once';

const LAYER: BadCall[] = [
  refused(
    'an unknown layout',
    { gateUpLayout: 'Interleaved' },
    'gateUpLayout: expected one of concatenated, interleaved, got "Interleaved"',
  ),
  refused(
    'interleaved without gates',
    { gateUpLayout: 'interleaved', activation: 'relu' },
    'gateUpLayout: expected concatenated unless gate and up are one tensor, got interleaved',
  ),
  refused('transposed as text', { transposed: 'yes' }, 'transposed: expected a boolean, got "yes"'),
  refused('lora as a number', { lora: 4 }, 'lora: expected an object, got 4'),
  refused('lora null', { lora: null }, 'lora: expected an object, got null'),
  refused('an unknown key of lora', lora({ r: 2 }), 'lora: expected only the keys rank, alpha, on, got "r"'),
  refused('no rank', lora({ rank: undefined }), `lora.rank: expected ${ANY}, got undefined`),
  refused('rank 0', lora({ rank: 0 }), `lora.rank: expected ${ANY}, got 0`),
  refused('half a rank', lora({ rank: 1.5 }), `lora.rank: expected ${ANY}, got 1.5`),
  refused('alpha NaN', lora({ alpha: Number.NaN }), 'lora.alpha: expected a finite number, got NaN'),
  refused('pairs on nothing named', lora({ on: undefined }), `${ON}, got undefined`),
  refused('pairs on nothing', lora({ on: [] }), `${ON}, got []`),
  refused('pairs by name alone', lora({ on: 'down' }), `${ON}, got "down"`),
  refused(
    'pairs on up alone',
    lora({ on: ['down', 'up'] }),
    'lora.on[1]: expected one of router, gateUp, down, got "up"',
  ),
  refused('pairs on down twice', lora({ on: ['down', 'down'] }), `${ON}, got an array of length 2`),
  refused(
    'no shared expert',
    { shared: { intermediate: 4, count: 0 } },
    `shared.count: expected ${ANY}, got 0`,
  ),
  refused(
    'half a shared expert',
    { shared: { intermediate: 4, count: 0.5 } },
    `shared.count: expected ${ANY}, got 0.5`,
  ),
  [
    'interleaved, gate and up apart',
    () => {
      const weights = {
        ...{ 'router.weight': floats([E, H]), 'experts.down': floats([E, H, I]) },
        ...{ 'experts.gate': floats([E, I, H]), 'experts.up': floats([E, I, H]) },
      };
      return () => new MoELayer({ ...config(), gateUpLayout: 'interleaved' }, { weights });
    },
    'ERR_INVALID_ARGUMENT',
    'config.gateUpLayout: expected concatenated unless gate and up are one tensor, got interleaved',
  ],
  [
    'pairs without their tensors',
    () => {
      const weights = {
        ...{ 'router.weight': floats([E, H]), 'experts.down': floats([E, H, I]) },
        ...{ 'experts.gate_up': floats([E, 2 * I, H]) },
      };
      return () => new MoELayer({ ...config(), ...lora({}) }, { weights });
    },
    'ERR_INVALID_ARGUMENT',
    'weights.experts.down.lora_a: expected a Tensor, got undefined',
  ],
];

describeBadCalls('layouts', LAYOUTS);
describeBadCalls('low-rank pairs', PAIRS);
describeBadCalls('shared experts', SHARED);
describeBadCalls('moeBackward', BACKWARD);
describeBadCalls('MoELayer', LAYER);
