// Wrong arguments of the fused layer and of MoELayer.

import { afterEach, expect, test } from 'vitest';
import {
  type Experts,
  MoELayer,
  type MoELayerConfig,
  type MoeForwardArgs,
  type MoeSaved,
  moeBackward,
  moeForward,
  synchronize,
  type Tensor,
} from '../../src/index.ts';
import {
  type BadCall,
  describeBadCalls,
  disposed,
  floats,
  ints,
  onOtherDevice,
} from '../support/bad-calls.ts';

const [T, H, I, E, K] = [3, 4, 6, 5, 2];

const experts = (): Experts => ({ gateUp: floats([E, 2 * I, H]), down: floats([E, H, I]) });
const router = () => ({ weight: floats([E, H]), topK: K });
const forwardArgs = (): MoeForwardArgs => ({ x: floats([T, H]), router: router(), experts: experts() });

const badForward = (change: () => object) => () => {
  const args = { ...forwardArgs(), ...change() };
  return () => moeForward(args);
};
const badExperts = (change: () => object) => badForward(() => ({ experts: { ...experts(), ...change() } }));
const ungated = (change: () => object) =>
  badForward(() => ({
    activation: 'relu',
    experts: { up: floats([E, I, H]), down: floats([E, H, I]), ...change() },
  }));
const separate = () => ({ gate: floats([E, I, H]), up: floats([E, I, H]), down: floats([E, H, I]) });
const given = (indices: Tensor, weights: Tensor) => ({ router: undefined, routing: { indices, weights } });
const FORWARD_KEYS =
  'x, router, routing, experts, shared, applyWeightTo, save, activation, activationLimit, activationAlpha, activationUpShift';

const FORWARD: BadCall[] = [
  [
    'a misspelt argument',
    badForward(() => ({ weights: 1 })),
    'ERR_INVALID_ARGUMENT',
    `args: expected only the keys ${FORWARD_KEYS}, got "weights"`,
  ],
  [
    'neither router nor routing',
    badForward(() => ({ router: undefined })),
    'ERR_INVALID_ARGUMENT',
    'args: expected either router or routing, got neither',
  ],
  [
    'both router and routing',
    badForward(() => ({ routing: { indices: ints([T, K]), weights: floats([T, K]) } })),
    'ERR_INVALID_ARGUMENT',
    'args: expected either router or routing, got both',
  ],
  [
    'x of integers',
    badForward(() => ({ x: ints([T, H]) })),
    'ERR_DTYPE',
    'x: expected dtype float32 or bfloat16 or float16, got int32',
  ],
  [
    'x disposed',
    badForward(() => ({ x: disposed(floats([T, H])) })),
    'ERR_DISPOSED',
    'x: expected a live tensor, got a disposed one',
  ],
  [
    'an unknown activation',
    badForward(() => ({ activation: 'SwiGLU' })),
    'ERR_INVALID_ARGUMENT',
    /^activation: expected one of identity, .*, reglu, swiglu_clamped, got "SwiGLU"$/,
  ],
  [
    'an unknown save mode',
    badForward(() => ({ save: 'all' })),
    'ERR_INVALID_ARGUMENT',
    'save: expected one of nothing, activations, recompute, got "all"',
  ],
  [
    'no experts',
    badForward(() => ({ experts: undefined })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected an object, got undefined',
  ],
  [
    'an unknown weight',
    badExperts(() => ({ w1: floats([1]) })),
    'ERR_INVALID_ARGUMENT',
    /^experts: expected only the keys gateUp, gate, up, down, .*, got "w1"$/,
  ],
  [
    'no down',
    badExperts(() => ({ down: undefined })),
    'ERR_INVALID_ARGUMENT',
    'experts.down: expected a tensor, for swiglu, got undefined',
  ],
  [
    'no gate',
    badExperts(() => ({ gateUp: undefined, up: floats([E, I, H]) })),
    'ERR_INVALID_ARGUMENT',
    'experts.gate: expected a tensor, for swiglu, got undefined',
  ],
  [
    'packed and separate',
    badExperts(() => ({ gate: floats([E, I, H]) })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected only gateUp, down, their biases and low-rank pairs, for swiglu, got gate',
  ],
  [
    'a gate where there is none',
    ungated(() => ({ gate: floats([E, I, H]) })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected only up, down, their biases and low-rank pairs, for relu, got gate',
  ],
  [
    'a transposed down',
    badExperts(() => ({ down: floats([E, I, H]) })),
    'ERR_SHAPE',
    'experts.down: expected shape [*, 4, *], got [5, 6, 4]',
  ],
  [
    'a transposed gateUp',
    badExperts(() => ({ gateUp: floats([E, H, 2 * I]) })),
    'ERR_SHAPE',
    'experts.gateUp: expected shape [5, 12, 4], got [5, 4, 12]',
  ],
  [
    'other experts below',
    ungated(() => ({ up: floats([4, I, H]) })),
    'ERR_SHAPE',
    'experts.up: expected shape [5, 6, 4], got [4, 6, 4]',
  ],
  [
    'weights of another dtype than x',
    badExperts(() => ({ down: floats([E, H, I], 'bfloat16') })),
    'ERR_DTYPE',
    'experts.down: expected dtype float32, got bfloat16',
  ],
  [
    'one bias of two',
    badForward(() => ({ experts: { ...separate(), gateBias: floats([E, I]) } })),
    'ERR_INVALID_ARGUMENT',
    'experts.upBias: expected a bias beside the other half’s, got undefined',
  ],
  [
    'a bias of another width',
    badExperts(() => ({ downBias: floats([E, I]) })),
    'ERR_SHAPE',
    'experts.downBias: expected shape [5, 4], got [5, 6]',
  ],
  [
    'no expert',
    badExperts(() => ({ gateUp: floats([0, 2 * I, H]), down: floats([0, H, I]) })),
    'ERR_SHAPE',
    'experts.down: expected at least one expert, got 0',
  ],
  [
    'experts on another device',
    badExperts(() => ({ down: onOtherDevice(floats([E, H, I])) })),
    'ERR_DEVICE_MISMATCH',
    'down: expected device cpu (that of x), got cuda:7',
  ],
  [
    'a router for other experts',
    badForward(() => ({ router: { weight: floats([4, H]), topK: K } })),
    'ERR_SHAPE',
    'router.weight: expected shape [5, 4], got [4, 4]',
  ],
  [
    'a router without topK',
    badForward(() => ({ router: { weight: floats([E, H]) } })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected an integer from 1 to 5, got undefined',
  ],
  [
    'a routing of other tokens',
    badForward(() => given(ints([2, K]), floats([T, K]))),
    'ERR_SHAPE',
    'routing.indices: expected shape [3, *], got [2, 2]',
  ],
  [
    'routing weights that do not fit',
    badForward(() => given(ints([T, K]), floats([T, 1]))),
    'ERR_SHAPE',
    'routing.weights: expected shape [3, 2], got [3, 1]',
  ],
  [
    'routing weights in 16 bits',
    badForward(() => given(ints([T, K]), floats([T, K], 'float16'))),
    'ERR_DTYPE',
    'routing.weights: expected dtype float32, got float16',
  ],
];

const made: MoeSaved[] = [];
afterEach(() => {
  for (const saved of made) saved.dispose();
  made.length = 0;
});

function forward(change: object = {}): MoeSaved {
  const { y, saved } = moeForward({ ...forwardArgs(), save: 'activations', ...change });
  y.dispose();
  made.push(saved!);
  return saved!;
}
const badBackward = (change: () => object, routing?: () => object) => () => {
  const args = { dy: floats([T, H]), saved: forward(routing?.()), ...change() };
  return () => moeBackward(args);
};
const into = (change: () => object) => badBackward(() => ({ accumulateInto: change() }));
const noRouter = () => given(ints([T, K]), floats([T, K]));
const NO_ROUTER =
  'args: expected no router gradients for a given routing, got dLogits or accumulateInto.router…';

const BACKWARD: BadCall[] = [
  [
    'nothing saved',
    badBackward(() => ({ saved: undefined })),
    'ERR_INVALID_ARGUMENT',
    'saved: expected what moeForward saved, got undefined',
  ],
  [
    'something else saved',
    badBackward(() => ({ saved: {} })),
    'ERR_INVALID_ARGUMENT',
    'saved: expected what moeForward saved, got an object (Object)',
  ],
  [
    'saved and disposed',
    badBackward(() => {
      const saved = forward();
      saved.dispose();
      return { saved };
    }),
    'ERR_DISPOSED',
    'saved.dispatch.slotRow: expected a live tensor, got a disposed one',
  ],
  [
    'dy of another shape',
    badBackward(() => ({ dy: floats([T, I]) })),
    'ERR_SHAPE',
    'dy: expected shape [3, 4], got [3, 6]',
  ],
  [
    'dy of another dtype',
    badBackward(() => ({ dy: floats([T, H], 'float16') })),
    'ERR_DTYPE',
    'dy: expected dtype float32, got float16',
  ],
  [
    'dLogits of another shape',
    badBackward(() => ({ dLogits: floats([T, K]) })),
    'ERR_SHAPE',
    'dLogits: expected shape [3, 5], got [3, 2]',
  ],
  [
    'dLogits for a given routing',
    badBackward(() => ({ dLogits: floats([T, E]) }), noRouter),
    'ERR_INVALID_ARGUMENT',
    NO_ROUTER,
  ],
  [
    'a router gradient for a given routing',
    badBackward(() => ({ accumulateInto: { routerWeight: floats([E, H]) } }), noRouter),
    'ERR_INVALID_ARGUMENT',
    NO_ROUTER,
  ],
  [
    'an unknown gradient',
    into(() => ({ w2: floats([1]) })),
    'ERR_INVALID_ARGUMENT',
    /^accumulateInto: expected only the keys gateUp, .*, routerWeight, .*, sharedGate, .*, got "w2"$/,
  ],
  [
    'a gradient of another shape',
    into(() => ({ down: floats([E, I, H]) })),
    'ERR_SHAPE',
    'accumulateInto.down: expected shape [5, 4, 6], got [5, 6, 4]',
  ],
  [
    'a narrower gradient',
    into(() => ({ down: floats([E, H, I], 'bfloat16') })),
    'ERR_DTYPE',
    'accumulateInto.down: expected dtype float32, got bfloat16',
  ],
  [
    'the gradient of a weight that was not given',
    into(() => ({ up: floats([E, I, H]) })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto.up: expected nothing: this gradient is not computed, got a tensor',
  ],
  [
    'a router gradient of another shape',
    into(() => ({ routerWeight: floats([H, E]) })),
    'ERR_SHAPE',
    'accumulateInto.routerWeight: expected shape [5, 4], got [4, 5]',
  ],
  [
    'the gradient of a router bias that was not given',
    into(() => ({ routerBias: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto.routerBias: expected nothing: this gradient is not computed, got a tensor',
  ],
  [
    'a gradient disposed',
    into(() => ({ gateUp: disposed(floats([E, 2 * I, H])) })),
    'ERR_DISPOSED',
    'accumulateInto.gateUp: expected a live tensor, got a disposed one',
  ],
];

const config = (): MoELayerConfig => ({ hidden: H, intermediate: I, experts: E, topK: K });
const badConfig = (change: object) => () => () => new MoELayer({ ...config(), ...change });
const parameters = () => ({
  'router.weight': floats([E, H]),
  'experts.gate_up': floats([E, 2 * I, H]),
  'experts.down': floats([E, H, I]),
});
const badWeights = (change: () => object) => () => {
  const weights = { ...parameters(), ...change() };
  return () => new MoELayer(config(), { weights });
};
const withLayer =
  (act: (layer: MoELayer, x: Tensor) => unknown, x = [T, H], prepare?: (layer: MoELayer) => void) =>
  () => {
    const made = new MoELayer(config(), { weights: parameters() });
    prepare?.(made);
    const input = floats(x);
    return () => act(made, input);
  };

const LAYER: BadCall[] = [
  [
    'no configuration',
    () => () => new MoELayer(undefined as never),
    'ERR_INVALID_ARGUMENT',
    'config: expected an object, got undefined',
  ],
  [
    'a misspelt dimension',
    badConfig({ hiddenSize: 4 }),
    'ERR_INVALID_ARGUMENT',
    /^config: expected only the keys hidden, intermediate, .*, got "hiddenSize"$/,
  ],
  [
    'no hidden size',
    badConfig({ hidden: undefined }),
    'ERR_INVALID_ARGUMENT',
    'config.hidden: expected an integer from 1 to 2147483647, got undefined',
  ],
  [
    'topK above E',
    badConfig({ topK: 6 }),
    'ERR_INVALID_ARGUMENT',
    'config.topK: expected an integer from 1 to 5, got 6',
  ],
  [
    'topK inside router',
    badConfig({ router: { topK: 2 } }),
    'ERR_INVALID_ARGUMENT',
    /^config\.router: expected only the keys score, .*, bias, selectionBias, expertScale, hash, got "topK"$/,
  ],
  [
    'a router bias that is a number',
    badConfig({ router: { bias: 1 } }),
    'ERR_INVALID_ARGUMENT',
    'config.router.bias: expected a boolean, got 1',
  ],
  [
    'an unknown score',
    badConfig({ router: { score: 'relu' } }),
    'ERR_INVALID_ARGUMENT',
    'config.router.score: expected one of softmax, sigmoid, sqrtsoftplus, identity, sparsemixer, got "relu"',
  ],
  [
    'an integer layer',
    badConfig({ dtype: 'int32' }),
    'ERR_DTYPE',
    'config.dtype: expected one of float32, bfloat16, float16, got int32',
  ],
  [
    'a negative seed',
    () => () => new MoELayer(config(), { seed: -1 }),
    'ERR_INVALID_ARGUMENT',
    'seed: expected an integer from 0 to 2147483647, got -1',
  ],
  [
    'a weight missing',
    badWeights(() => ({ 'experts.down': undefined })),
    'ERR_INVALID_ARGUMENT',
    'weights.experts.down: expected a Tensor, got undefined',
  ],
  [
    'a weight too many',
    badWeights(() => ({ 'experts.gate': floats([E, I, H]) })),
    'ERR_INVALID_ARGUMENT',
    'weights: expected only the keys router.weight, experts.gate_up, experts.down, got "experts.gate"',
  ],
  [
    'a weight of another shape',
    badWeights(() => ({ 'experts.down': floats([E, I, H]) })),
    'ERR_SHAPE',
    'weights.experts.down: expected shape [5, 4, 6], got [5, 6, 4]',
  ],
  [
    'a weight of another dtype',
    badWeights(() => ({ 'experts.down': floats([E, H, I], 'float16') })),
    'ERR_DTYPE',
    'weights.experts.down: expected dtype float32, got float16',
  ],
  [
    'x of another width',
    withLayer((layer, x) => layer.forward(x), [T, 3]),
    'ERR_SHAPE',
    'experts.down: expected shape [*, 3, *], got [5, 4, 6]',
  ],
  [
    'an unknown training option',
    withLayer((layer, x) => layer.forwardTrain(x, { save: true } as never)),
    'ERR_INVALID_ARGUMENT',
    'options: expected only the keys recompute, indices, mask, sequenceLength, step, got "save"',
  ],
  [
    'a disposed layer',
    withLayer(
      (layer, x) => layer.forward(x),
      [T, H],
      layer => layer.dispose(),
    ),
    'ERR_DISPOSED',
    'layer: expected a live layer, got a disposed one',
  ],
];

describeBadCalls('moeForward', FORWARD);
describeBadCalls('moeBackward', BACKWARD);
describeBadCalls('MoELayer', LAYER);

test('a backward pass that is refused adds nothing to the gradients it was given', () => {
  const down = floats([E, H, I]);
  const before = down.dataSync();
  const saved = forward();
  const call = () =>
    moeBackward({ dy: floats([T, H]), saved, accumulateInto: { down, routerWeight: floats([1, H]) } });
  expect(call).toThrow('accumulateInto.routerWeight');
  synchronize();
  expect(down.dataSync()).toEqual(before);
});
