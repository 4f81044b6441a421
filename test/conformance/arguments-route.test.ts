// Wrong arguments of the router.

import { type RouteArgs, route, routeBackward } from '../../src/index.ts';
import {
  type BadCall,
  describeBadCalls,
  detached,
  disposed,
  floats,
  ints,
  onOtherDevice,
  using,
} from '../support/bad-calls.ts';

const [T, H, E, K] = [3, 4, 5, 2];
const FLOAT = 'dtype float32 or bfloat16 or float16';

const routeArgs = (): RouteArgs => ({ x: floats([T, H]), weight: floats([E, H]), topK: K });
const badRoute = (change: () => object) => using(route, routeArgs, change);
const ROUTE_KEYS =
  'x, logits, noiseLogits, weight, bias, noiseWeight, loraA, loraB, selectionBias, expertScale, loraScale, indices, mask, sequenceLength, step, topK, score, softmaxOver, jitterEps, groups, level, topP, expertChoice, normalize, normalizeEps, normalizeMin, scale, capacity, noise, identityExperts';

const ROUTE: BadCall[] = [
  [
    'no arguments',
    () => () => route(undefined as never),
    'ERR_INVALID_ARGUMENT',
    'args: expected an object, got undefined',
  ],
  [
    'a misspelt option',
    badRoute(() => ({ topk: 2 })),
    'ERR_INVALID_ARGUMENT',
    `args: expected only the keys ${ROUTE_KEYS}, got "topk"`,
  ],
  [
    'neither x nor logits',
    badRoute(() => ({ x: undefined })),
    'ERR_INVALID_ARGUMENT',
    'args: expected either x and weight, or logits, got neither',
  ],
  [
    'both x and logits',
    badRoute(() => ({ logits: floats([T, E]) })),
    'ERR_INVALID_ARGUMENT',
    'args: expected either x and weight, or logits, got both',
  ],
  [
    'x that is no tensor',
    badRoute(() => ({ x: [1, 2] })),
    'ERR_INVALID_ARGUMENT',
    'x: expected a Tensor, got [1, 2]',
  ],
  ['x of integers', badRoute(() => ({ x: ints([T, H]) })), 'ERR_DTYPE', `x: expected ${FLOAT}, got int32`],
  ['x of rank 1', badRoute(() => ({ x: floats([H]) })), 'ERR_SHAPE', 'x: expected shape [*, *], got [4]'],
  [
    'no weight',
    badRoute(() => ({ weight: undefined })),
    'ERR_INVALID_ARGUMENT',
    'weight: expected a Tensor, got undefined',
  ],
  [
    'a weight of another width',
    badRoute(() => ({ weight: floats([E, 3]) })),
    'ERR_SHAPE',
    'weight: expected shape [*, 4], got [5, 3]',
  ],
  [
    'a narrower weight',
    badRoute(() => ({ weight: floats([E, H], 'float16') })),
    'ERR_DTYPE',
    'weight: expected dtype float32, got float16',
  ],
  [
    'a weight of another 16-bit dtype',
    badRoute(() => ({ x: floats([T, H], 'bfloat16'), weight: floats([E, H], 'float16') })),
    'ERR_DTYPE',
    'weight: expected dtype bfloat16 or float32, got float16',
  ],
  [
    'a bias of another length',
    badRoute(() => ({ bias: floats([4]) })),
    'ERR_SHAPE',
    'bias: expected shape [5], got [4]',
  ],
  [
    'no topK',
    badRoute(() => ({ topK: undefined })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected an integer from 1 to 5, got undefined',
  ],
  [
    'topK 0',
    badRoute(() => ({ topK: 0 })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected an integer from 1 to 5, got 0',
  ],
  [
    'topK above E',
    badRoute(() => ({ topK: 6 })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected an integer from 1 to 5, got 6',
  ],
  [
    'fractional topK',
    badRoute(() => ({ topK: 1.5 })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected an integer from 1 to 5, got 1.5',
  ],
  [
    'an unknown score',
    badRoute(() => ({ score: 'tanh' })),
    'ERR_INVALID_ARGUMENT',
    'router.score: expected one of softmax, sigmoid, sqrtsoftplus, identity, sparsemixer, got "tanh"',
  ],
  [
    'an unknown softmaxOver',
    badRoute(() => ({ softmaxOver: 'some' })),
    'ERR_INVALID_ARGUMENT',
    'router.softmaxOver: expected one of all, selected, got "some"',
  ],
  [
    'softmaxOver beside sigmoid',
    badRoute(() => ({ score: 'sigmoid', softmaxOver: 'all' })),
    'ERR_INVALID_ARGUMENT',
    'router.softmaxOver: expected score: softmax beside it, got score: sigmoid',
  ],
  [
    'normalize as a number',
    badRoute(() => ({ normalize: 1 })),
    'ERR_INVALID_ARGUMENT',
    'router.normalize: expected a boolean, got 1',
  ],
  [
    'normalizeEps alone',
    badRoute(() => ({ normalizeEps: 1e-6 })),
    'ERR_INVALID_ARGUMENT',
    'router.normalizeEps: expected normalize: true beside it, got normalize: false',
  ],
  [
    'a negative normalizeEps',
    badRoute(() => ({ normalize: true, normalizeEps: -1 })),
    'ERR_INVALID_ARGUMENT',
    'router.normalizeEps: expected a number ≥ 0, got -1',
  ],
  [
    'NaN as normalizeMin',
    badRoute(() => ({ normalize: true, normalizeMin: NaN })),
    'ERR_INVALID_ARGUMENT',
    'router.normalizeMin: expected a finite number, got NaN',
  ],
  [
    'an infinite scale',
    badRoute(() => ({ scale: Infinity })),
    'ERR_INVALID_ARGUMENT',
    'router.scale: expected a finite number, got Infinity',
  ],
  [
    'x disposed',
    badRoute(() => ({ x: disposed(floats([T, H])) })),
    'ERR_DISPOSED',
    'x: expected a live tensor, got a disposed one',
  ],
  [
    'weight detached',
    badRoute(() => ({ weight: detached([E, H]) })),
    'ERR_DETACHED',
    'weight: expected a tensor whose shared buffer is intact, got one whose buffer was detached',
  ],
  [
    'weight on another device',
    badRoute(() => ({ weight: onOtherDevice(floats([E, H])) })),
    'ERR_DEVICE_MISMATCH',
    'weight: expected device cpu (that of x), got cuda:7',
  ],
  [
    'too many rows',
    badRoute(() => ({ x: floats([2 ** 30, 0]), weight: floats([E, 0]), topK: 4 })),
    'ERR_SHAPE',
    'tokens × topK: expected at most 2147483647 routed rows, got 4294967296',
  ],
  [
    '16-bit logits',
    using(
      route,
      () => ({ topK: K }),
      () => ({ logits: floats([T, E], 'bfloat16') }),
    ),
    'ERR_DTYPE',
    'logits: expected dtype float32, got bfloat16',
  ],
  [
    'logits of rank 1',
    using(
      route,
      () => ({ topK: K }),
      () => ({ logits: floats([E]) }),
    ),
    'ERR_SHAPE',
    'logits: expected shape [*, *], got [5]',
  ],
  [
    'a weight beside logits',
    using(
      route,
      () => ({ topK: K }),
      () => ({ logits: floats([T, E]), weight: floats([E, H]) }),
    ),
    'ERR_INVALID_ARGUMENT',
    'weight: expected nothing beside logits, got a value',
  ],
];

const routed = () => ({
  logits: floats([T, E]),
  indices: ints([T, K]),
  weights: floats([T, K]),
  counts: ints([E]),
  run: {
    ...{ tokensPerExpert: undefined, sequenceLength: 0, rows: T * K, step: undefined },
    ...{ noiseStrength: 0, mask: undefined },
  },
  router: {
    topK: K,
    choice: 'best',
    level: 'token',
    topP: undefined,
    noise: undefined,
    score: 'softmax',
    softmaxOver: 'all',
    normalize: false,
    normalizeEps: 0,
    normalizeMin: 0,
    scale: 1,
    jitterEps: 0.01,
    groups: undefined,
    capacity: undefined,
    identityExperts: 0,
  } as const,
});
const badRouteBackward = (change: () => object) =>
  using(routeBackward, () => ({ routing: routed(), dWeights: floats([T, K]) }), change);

const ROUTE_BACKWARD: BadCall[] = [
  [
    'no routing',
    badRouteBackward(() => ({ routing: undefined })),
    'ERR_INVALID_ARGUMENT',
    'routing: expected an object, got undefined',
  ],
  [
    'a routing without indices',
    badRouteBackward(() => ({ routing: { ...routed(), indices: undefined } })),
    'ERR_INVALID_ARGUMENT',
    'routing.indices: expected a Tensor, got undefined',
  ],
  [
    'a disposed routing',
    badRouteBackward(() => ({ routing: { ...routed(), logits: disposed(floats([T, E])) } })),
    'ERR_DISPOSED',
    'routing.logits: expected a live tensor, got a disposed one',
  ],
  [
    'dWeights of another shape',
    badRouteBackward(() => ({ dWeights: floats([T, E]) })),
    'ERR_SHAPE',
    'dWeights: expected shape [3, 2], got [3, 5]',
  ],
  [
    '16-bit dLogits',
    badRouteBackward(() => ({ dLogits: floats([T, E], 'float16') })),
    'ERR_DTYPE',
    'dLogits: expected dtype float32, got float16',
  ],
  [
    'x of other tokens',
    badRouteBackward(() => ({ x: floats([2, H]) })),
    'ERR_SHAPE',
    'x: expected shape [3, *], got [2, 4]',
  ],
  [
    'a weight of other width than x',
    badRouteBackward(() => ({ x: floats([T, H]), weight: floats([E, 3]) })),
    'ERR_SHAPE',
    'weight: expected shape [5, 4], got [5, 3]',
  ],
  [
    'a gradient nobody asked for',
    badRouteBackward(() => ({ accumulateInto: { dx: floats([T, H]) } })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto.dx: expected nothing: this gradient is not computed, got a tensor',
  ],
  [
    'a gradient of another shape',
    badRouteBackward(() => ({ x: floats([T, H]), accumulateInto: { weight: floats([H, E]) } })),
    'ERR_SHAPE',
    'accumulateInto.weight: expected shape [5, 4], got [4, 5]',
  ],
  [
    'a narrower gradient',
    badRouteBackward(() => ({ x: floats([T, H]), accumulateInto: { weight: floats([E, H], 'bfloat16') } })),
    'ERR_DTYPE',
    'accumulateInto.weight: expected dtype float32, got bfloat16',
  ],
  [
    'an unknown gradient',
    badRouteBackward(() => ({ accumulateInto: { gate: floats([E]) } })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto: expected only the keys dx, weight, bias, expertScale, noiseWeight, loraA, loraB, got "gate"',
  ],
];

describeBadCalls('route', ROUTE);
describeBadCalls('routeBackward', ROUTE_BACKWARD);
