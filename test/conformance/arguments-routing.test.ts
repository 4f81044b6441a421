// Wrong arguments of calls that mask, average, give experts, add noise or a low-rank pair, bound the rows, or return tokens.

import { afterEach, describe, expect, test } from 'vitest';
import {
  dispatch,
  MoELayer,
  moeBackward,
  moeForward,
  type RouteArgs,
  type Routing,
  route,
  routeBackward,
  routerLoss,
  unpermute,
  unpermuteBackward,
} from '../../src/index.ts';
import { type BadCall, describeBadCalls, floats, ints, onOtherDevice, using } from '../support/bad-calls.ts';
import { free } from '../support/tensors.ts';

const [T, H, E, K] = [6, 4, 5, 2];
const NOISY = { noise: { kind: 'noisyTopK' }, step: 0 } as const;
const BY_SEQUENCE = { level: 'sequence' } as const;

const ofX = (): RouteArgs => ({ x: floats([T, H]), weight: floats([E, H]), topK: K });
const ofLogits = (): RouteArgs => ({ logits: floats([T, E]), topK: K });
const badX = (change: () => object) => using(route, ofX, change);
const badLogits = (change: () => object) => using(route, ofLogits, change);
const invalid = (title: string, call: BadCall[1], message: string): BadCall => [
  title,
  call,
  'ERR_INVALID_ARGUMENT',
  message,
];

const SEQUENCES: BadCall[] = [
  invalid(
    'sequences of no length',
    badLogits(() => BY_SEQUENCE),
    'sequenceLength: expected an integer from 1 to 2147483647, got undefined',
  ),
  invalid(
    'a capacity per sequences of no length',
    badLogits(() => ({ capacity: { factor: 1, per: 'sequence' } })),
    'sequenceLength: expected an integer from 1 to 2147483647, got undefined',
  ),
  invalid(
    'a length that does not divide the tokens',
    badLogits(() => ({ ...BY_SEQUENCE, sequenceLength: 4 })),
    'sequenceLength: expected a divisor of the 6 tokens, got 4',
  ),
  invalid(
    'a length of 0',
    badLogits(() => ({ ...BY_SEQUENCE, sequenceLength: 0 })),
    'sequenceLength: expected an integer from 1 to 2147483647, got 0',
  ),
  invalid(
    'a length where nothing is by sequence',
    badLogits(() => ({ sequenceLength: 3, capacity: { factor: 1 } })),
    'sequenceLength: expected level: sequence or per: sequence beside it, got 3',
  ),
  [
    'a mask of other tokens',
    badLogits(() => ({ mask: ints([T + 1]) })),
    'ERR_SHAPE',
    'mask: expected shape [6], got [7]',
  ],
  [
    'a mask of slots',
    badLogits(() => ({ mask: ints([T, K]) })),
    'ERR_SHAPE',
    'mask: expected shape [6], got [6, 2]',
  ],
  [
    'a mask of floats',
    badLogits(() => ({ mask: floats([T]) })),
    'ERR_DTYPE',
    'mask: expected dtype int32, got float32',
  ],
  [
    'a mask elsewhere',
    badLogits(() => ({ mask: onOtherDevice(ints([T])) })),
    'ERR_DEVICE_MISMATCH',
    'mask: expected device cpu (that of logits), got cuda:7',
  ],
];

const STEP = 'step: expected an integer from 0 to 9007199254740991';
const NOISE: BadCall[] = [
  invalid(
    'a step before the first',
    badLogits(() => ({ step: -1 })),
    `${STEP}, got -1`,
  ),
  invalid(
    'half a step',
    badLogits(() => ({ step: 0.5 })),
    `${STEP}, got 0.5`,
  ),
  invalid(
    'a step that is a bigint',
    badLogits(() => ({ step: 1n })),
    `${STEP}, got 1`,
  ),
  invalid(
    'jitter without tokens',
    badLogits(() => ({ noise: { kind: 'jitter', eps: 0.1 }, step: 0 })),
    'x: expected the tokens that jitter works on, got undefined',
  ),
  invalid(
    'noisy top-k without a noise weight',
    badX(() => NOISY),
    'noiseWeight: expected a tensor for noisyTopK noise, got undefined',
  ),
  invalid(
    'noisy top-k without noise logits',
    badLogits(() => NOISY),
    'noiseLogits: expected a tensor for noisyTopK noise, got undefined',
  ),
  invalid(
    'a noise weight for Gumbel noise',
    badX(() => ({ noise: { kind: 'gumbel' }, noiseWeight: floats([E, H]) })),
    'noiseWeight: expected noise.kind: noisyTopK beside it, got noise.kind: gumbel',
  ),
  invalid(
    'noise logits for no noise',
    badLogits(() => ({ noiseLogits: floats([T, E]) })),
    'noiseLogits: expected noise.kind: noisyTopK beside it, got noise.kind: none',
  ),
  invalid(
    'noise logits beside x',
    badX(() => ({ ...NOISY, noiseLogits: floats([T, E]) })),
    'noiseLogits: expected nothing beside x, got a value',
  ),
  invalid(
    'a noise weight beside logits',
    badLogits(() => ({ ...NOISY, noiseWeight: floats([E, H]) })),
    'noiseWeight: expected nothing beside logits, got a value',
  ),
  [
    'a noise weight of another shape',
    badX(() => ({ ...NOISY, noiseWeight: floats([H, E]) })),
    'ERR_SHAPE',
    'noiseWeight: expected shape [5, 4], got [4, 5]',
  ],
  [
    'a narrower noise weight',
    badX(() => ({ ...NOISY, noiseWeight: floats([E, H], 'bfloat16') })),
    'ERR_DTYPE',
    'noiseWeight: expected dtype float32, got bfloat16',
  ],
  [
    'noise logits of another shape',
    badLogits(() => ({ ...NOISY, noiseLogits: floats([T, E + 1]) })),
    'ERR_SHAPE',
    'noiseLogits: expected shape [6, 5], got [6, 6]',
  ],
  [
    '16-bit noise logits',
    badLogits(() => ({ ...NOISY, noiseLogits: floats([T, E], 'float16') })),
    'ERR_DTYPE',
    'noiseLogits: expected dtype float32, got float16',
  ],
];

const pair = (rank = 3) => ({ loraA: floats([rank, H]), loraB: floats([E, rank]) });
const PAIRS: BadCall[] = [
  invalid(
    'A alone',
    badX(() => ({ loraA: floats([3, H]) })),
    'loraB: expected a Tensor, got undefined',
  ),
  invalid(
    'B alone',
    badX(() => ({ loraB: floats([E, 3]) })),
    'loraA: expected a Tensor, got undefined',
  ),
  [
    'A of another width',
    badX(() => ({ ...pair(), loraA: floats([3, H + 1]) })),
    'ERR_SHAPE',
    'loraA: expected shape [*, 4], got [3, 5]',
  ],
  [
    'B of another rank',
    badX(() => ({ ...pair(), loraB: floats([E, 2]) })),
    'ERR_SHAPE',
    'loraB: expected shape [5, 3], got [5, 2]',
  ],
  [
    'a narrower A',
    badX(() => ({ ...pair(), loraA: floats([3, H], 'float16') })),
    'ERR_DTYPE',
    'loraA: expected dtype float32, got float16',
  ],
  invalid(
    'a scale NaN',
    badX(() => ({ ...pair(), loraScale: Number.NaN })),
    'loraScale: expected a finite number, got NaN',
  ),
  invalid(
    'a pair beside logits',
    badLogits(() => pair()),
    'loraA: expected nothing beside logits, got a value',
  ),
];

const made: unknown[] = [];
afterEach(() => {
  free(made);
  made.length = 0;
});

const badBackward = (options: () => object, change: () => object) => () => {
  const args = { ...ofX(), ...options() } as RouteArgs;
  const routing = route(args);
  made.push(routing);
  const { x, weight, noiseWeight, loraA, loraB } = args;
  const backward = { routing, dWeights: floats([T, K]), x, weight, noiseWeight, loraA, loraB, ...change() };
  return () => routeBackward(backward);
};
const NOTHING = 'expected nothing: this gradient is not computed, got a tensor';
const BACKWARD: BadCall[] = [
  invalid(
    'a gradient of noise logits that are not there',
    badBackward(
      () => ({}),
      () => ({ dNoiseLogits: floats([T, E]) }),
    ),
    'dNoiseLogits: expected nothing for a routing without noise logits, got a tensor',
  ),
  [
    'a gradient of noise logits of another shape',
    badBackward(
      () => ({ ...NOISY, noiseWeight: floats([E, H]) }),
      () => ({ dNoiseLogits: floats([T, K]) }),
    ),
    'ERR_SHAPE',
    'dNoiseLogits: expected shape [6, 5], got [6, 2]',
  ],
  invalid(
    'the gradient of a frozen weight',
    badBackward(pair, () => ({ accumulateInto: { weight: floats([E, H]) } })),
    `accumulateInto.weight: ${NOTHING}`,
  ),
  invalid(
    'the gradient of a noise weight that was not given',
    badBackward(
      () => ({}),
      () => ({ accumulateInto: { noiseWeight: floats([E, H]) } }),
    ),
    `accumulateInto.noiseWeight: ${NOTHING}`,
  ),
  invalid(
    'A without B',
    badBackward(pair, () => ({ loraB: undefined })),
    'loraB: expected a tensor beside the other of the pair, got undefined',
  ),
  [
    'the gradient of A in the shape of B',
    badBackward(pair, () => ({ accumulateInto: { loraA: floats([E, 3]) } })),
    'ERR_SHAPE',
    'accumulateInto.loraA: expected shape [3, 4], got [5, 3]',
  ],
];

const badLoss = (options: () => object, change: () => object) => () => {
  const routing: Routing = route({ ...ofLogits(), ...options() } as RouteArgs);
  made.push(routing);
  const args = { routing, ...change() };
  return () => routerLoss(args);
};
const LOSSES: BadCall[] = [
  invalid(
    'a load loss without noise',
    badLoss(
      () => ({}),
      () => ({ load: 0.1 }),
    ),
    'load: expected nothing for a routing without noisyTopK noise, got 0.1',
  ),
  invalid(
    'a load loss with noise that is off',
    badLoss(
      () => ({ noise: NOISY.noise, noiseLogits: floats([T, E]) }),
      () => ({ load: 1 }),
    ),
    'load: expected nothing for a routing without noisyTopK noise, got 1',
  ),
  invalid(
    'load balance of experts that choose',
    badLoss(
      () => ({ topK: undefined, expertChoice: { factor: 1 } }),
      () => ({ loadBalance: 1 }),
    ),
    'loadBalance: expected nothing with expertChoice, got 1',
  ),
  invalid(
    'importance as text',
    badLoss(
      () => ({}),
      () => ({ importance: '1' }),
    ),
    'importance: expected a finite number, got "1"',
  ),
  [
    'an expert scale of another length',
    badLoss(
      () => ({}),
      () => ({ importance: 1, expertScale: floats([E - 1]) }),
    ),
    'ERR_SHAPE',
    'expertScale: expected shape [5], got [4]',
  ],
  [
    'a mask of other tokens',
    badLoss(
      () => ({}),
      () => ({ mask: ints([T - 1]) }),
    ),
    'ERR_SHAPE',
    'mask: expected shape [6], got [5]',
  ],
];

const badDispatch = (change: () => object) =>
  using(dispatch, () => ({ indices: ints([T, K]), experts: E }), change);
const permutation = () => ({ offsets: ints([E + 1]), rowSlot: ints([9]), slotRow: ints([T, K]) });
const badUnpermute = (change: () => object) =>
  using(unpermute, () => ({ rows: floats([9, H]), dispatch: permutation() }), change);
const badUnpermuteBackward = (change: () => object) =>
  using(unpermuteBackward, () => ({ dy: floats([T, H]), dispatch: permutation() }), change);
const ROWS: BadCall[] = [
  invalid(
    'dispatch: fewer rows than none',
    badDispatch(() => ({ rows: -1 })),
    'rows: expected an integer from 0 to 12, got -1',
  ),
  invalid(
    'dispatch: more rows than slots',
    badDispatch(() => ({ rows: 13 })),
    'rows: expected an integer from 0 to 12, got 13',
  ),
  invalid(
    'dispatch: rows twice over',
    badDispatch(() => ({ rows: 12, rowsPerExpert: 3 })),
    'rows: expected nothing with rowsPerExpert, got 12',
  ),
  invalid(
    'dispatch: no row per expert',
    badDispatch(() => ({ rowsPerExpert: 0 })),
    'rowsPerExpert: expected an integer from 1 to 2147483647, got 0',
  ),
  [
    'dispatch: more rows than can be counted',
    badDispatch(() => ({ rowsPerExpert: 2 ** 30 })),
    'ERR_SHAPE',
    /: expected at most 2147483647 .*rows, got 5368709120$/,
  ],
  [
    'unpermute: rows of another number',
    badUnpermute(() => ({ rows: floats([T * K, H]) })),
    'ERR_SHAPE',
    'rows: expected shape [9, *], got [12, 4]',
  ],
  [
    'unpermute: x of another width',
    badUnpermute(() => ({ x: floats([T, H + 1]) })),
    'ERR_SHAPE',
    'x: expected shape [6, 4], got [6, 5]',
  ],
  [
    'unpermute: x of another dtype',
    badUnpermute(() => ({ x: floats([T, H], 'bfloat16') })),
    'ERR_DTYPE',
    'x: expected dtype float32, got bfloat16',
  ],
  [
    'unpermute: a sum of another shape',
    badUnpermute(() => ({ accumulateInto: floats([H, T]) })),
    'ERR_SHAPE',
    'accumulateInto: expected shape [6, 4], got [4, 6]',
  ],
  invalid(
    'unpermuteBackward: the gradient of no weights',
    badUnpermuteBackward(() => ({ rows: floats([9, H]), x: floats([T, H]) })),
    'weights: expected the weights whose gradient rows asks for, got undefined',
  ),
  [
    'unpermuteBackward: x of other tokens',
    badUnpermuteBackward(() => ({ weights: floats([T, K]), x: floats([T - 1, H]) })),
    'ERR_SHAPE',
    'x: expected shape [6, 4], got [5, 4]',
  ],
];

const layerInputs = () => ({ x: floats([T, H]), mask: ints([H]), indices: ints([T, K]) });
const badLayerCall =
  (router: object, call: (layer: MoELayer, inputs: ReturnType<typeof layerInputs>) => unknown) => () => {
    const layer = new MoELayer({ hidden: H, intermediate: 3, experts: E, topK: K, router });
    made.push(layer.parameters);
    const inputs = layerInputs();
    return () => call(layer, inputs);
  };
const badWeights = (name: string, flag: object, values: () => object) => () => {
  const config = { hidden: H, intermediate: 3, experts: E, topK: K, router: flag };
  const layer = new MoELayer(config);
  made.push(layer.parameters);
  const weights = { ...layer.parameters, [name]: values() } as MoELayer['parameters'];
  return () => new MoELayer(config, { weights });
};
const withNaN = (length: number, at: number) => {
  const vector = floats([length]);
  const values = vector.dataSync();
  values[at] = Number.NaN;
  vector.write(values);
  return vector;
};
const LAYER: BadCall[] = [
  invalid(
    'hash without experts',
    badLayerCall({ hash: true }, (layer, { x }) => layer.forward(x)),
    'indices: expected the experts of each token, router.hash: true, got undefined',
  ),
  invalid(
    'experts without hash',
    badLayerCall({}, (layer, { x, indices }) => layer.forwardTrain(x, { indices })),
    'indices: expected nothing, router.hash: false, got a value',
  ),
  invalid(
    'a step at inference',
    badLayerCall({ noise: { kind: 'gumbel' } }, (layer, { x }) => layer.forward(x, { step: 1 } as never)),
    'call: expected only the keys indices, mask, sequenceLength, got "step"',
  ),
  invalid(
    'no sequences where they are one choice',
    badLayerCall(BY_SEQUENCE, (layer, { x }) => layer.forward(x)),
    'sequenceLength: expected an integer from 1 to 2147483647, got undefined',
  ),
  [
    'a mask of other tokens',
    badLayerCall({}, (layer, { x, mask }) => layer.forward(x, { mask })),
    'ERR_SHAPE',
    'mask: expected shape [6], got [4]',
  ],
  invalid(
    'NaN in the bias',
    badWeights('router.bias', { bias: true }, () => withNaN(E, 2)),
    'weights.router.bias: expected numbers, got NaN at 2',
  ),
  invalid(
    'NaN in the selection bias',
    badWeights('router.selection_bias', { selectionBias: true }, () => withNaN(E, 0)),
    'weights.router.selection_bias: expected numbers, got NaN at 0',
  ),
  invalid(
    'NaN in the expert scale',
    badWeights('router.expert_scale', { expertScale: true }, () => withNaN(E, 4)),
    'weights.router.expert_scale: expected numbers, got NaN at 4',
  ),
];

describe('a bad gradient of a layer', () => {
  test('is refused before anything is added', () => {
    const { saved, y } = moeForward({
      ...{ x: floats([T, H]), router: { weight: floats([E, H]), topK: K }, activation: 'relu' },
      ...{ experts: { up: floats([E, 3, H]), down: floats([E, H, 3]) }, save: 'activations' },
    });
    made.push(y, saved!.block, saved!.routing);
    const down = floats([E, H, 3]);
    const before = Array.from(down.dataSync());
    const args = {
      dy: floats([T, H]),
      saved: saved!,
      dNoiseLogits: floats([T, E]),
      accumulateInto: { down },
    };
    expect(() => moeBackward(args)).toThrow(
      'dNoiseLogits: expected nothing for a routing without noise logits, got a tensor',
    );
    expect(Array.from(down.dataSync())).toEqual(before);
  });
});

describeBadCalls('sequences and masks', SEQUENCES);
describeBadCalls('noise', NOISE);
describeBadCalls('a low-rank pair of the router', PAIRS);
describeBadCalls('routeBackward', BACKWARD);
describeBadCalls('routerLoss', LOSSES);
describeBadCalls('rows of a dispatch, and tokens that return', ROWS);
describeBadCalls('calls and weights of a layer', LAYER);
