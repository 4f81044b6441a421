// Options of the stateless ops that contradict each other or the shapes: of the router, the dispatch and the activation.

import { afterEach } from 'vitest';
import {
  dispatch,
  groupedMatmul,
  type RouteArgs,
  type Routing,
  route,
  routeBackward,
} from '../../src/index.ts';
import { type BadCall, describeBadCalls, floats, ints, onOtherDevice, using } from '../support/bad-calls.ts';
import { ACTIVATION_OPTIONS, type BadOption, ROUTER_OPTIONS } from '../support/bad-options.ts';
import { CHOICE_OPTIONS, EXPERT_CHOICE_OPTIONS, GIVEN_OPTIONS } from '../support/bad-routers.ts';
import { free } from '../support/tensors.ts';

const [T, H, I, E, K] = [3, 4, 6, 12, 2];

const routeArgs = (): RouteArgs => ({ logits: floats([T, E]), topK: K });
const badRoute = (change: () => object) => using(route, routeArgs, change);

const refused =
  (base: () => object = () => ({})) =>
  ([title, change, sentence]: BadOption): BadCall => [
    title,
    badRoute(() => ({ ...base(), ...change })),
    'ERR_INVALID_ARGUMENT',
    `router.${sentence}`,
  ];

const EXPERT_CHOICE = () => ({ topK: undefined, expertChoice: { factor: 1 } });
const GIVEN = () => ({ indices: ints([T, K]) });

const ROUTE: BadCall[] = [
  ...[...ROUTER_OPTIONS, ...CHOICE_OPTIONS].map(refused()),
  [
    'sparsemixer with K = 1',
    badRoute(() => ({ score: 'sparsemixer', topK: 1 })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected 2 with sparsemixer, got 1',
  ],
  [
    'sparsemixer with K = 3',
    badRoute(() => ({ score: 'sparsemixer', topK: 3 })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected 2 with sparsemixer, got 3',
  ],
  [
    'sparsemixer with a selection bias',
    badRoute(() => ({ score: 'sparsemixer', selectionBias: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    'selectionBias: expected nothing with sparsemixer, got a tensor',
  ],
  [
    'only identity experts',
    badRoute(() => ({ identityExperts: E })),
    'ERR_INVALID_ARGUMENT',
    'router.identityExperts: expected an integer from 0 to 11, got 12',
  ],
  [
    'fewer identity experts than none',
    badRoute(() => ({ identityExperts: -1 })),
    'ERR_INVALID_ARGUMENT',
    'router.identityExperts: expected an integer from 0 to 11, got -1',
  ],
  [
    'a selection bias of another length',
    badRoute(() => ({ selectionBias: floats([E - 1]) })),
    'ERR_SHAPE',
    'selectionBias: expected shape [12], got [11]',
  ],
  [
    'a selection bias without the identity experts',
    badRoute(() => ({ identityExperts: 2, selectionBias: floats([E - 2]) })),
    'ERR_SHAPE',
    'selectionBias: expected shape [12], got [10]',
  ],
  [
    'a selection bias in 16 bits',
    badRoute(() => ({ selectionBias: floats([E], 'bfloat16') })),
    'ERR_DTYPE',
    'selectionBias: expected dtype float32, got bfloat16',
  ],
  [
    'a selection bias as an array',
    badRoute(() => ({ selectionBias: new Float32Array(E) })),
    'ERR_INVALID_ARGUMENT',
    'selectionBias: expected a Tensor, got Float32Array(12)',
  ],
  [
    'a selection bias elsewhere',
    badRoute(() => ({ selectionBias: onOtherDevice(floats([E])) })),
    'ERR_DEVICE_MISMATCH',
    'logits: expected device cuda:7 (that of selectionBias), got cpu',
  ],
  [
    'an expert scale of identity experts',
    badRoute(() => ({ identityExperts: 2, expertScale: floats([E]) })),
    'ERR_SHAPE',
    'expertScale: expected shape [10], got [12]',
  ],
  [
    'an expert scale of integers',
    badRoute(() => ({ expertScale: ints([E]) })),
    'ERR_DTYPE',
    'expertScale: expected dtype float32 or bfloat16 or float16, got int32',
  ],
];

const made: Routing[] = [];
afterEach(() => {
  free(made);
  made.length = 0;
});

const badRouteBackward = (change: (routing: Routing) => object) => () => {
  const expertScale = floats([E]);
  const routing = route({ ...routeArgs(), expertScale, capacity: { tokensPerExpert: 1 } });
  made.push(routing);
  const args = { routing, expertScale, dWeights: floats([T, K]), ...change(routing) };
  return () => routeBackward(args);
};

const ROUTE_BACKWARD: BadCall[] = [
  [
    'an expert scale of another length',
    badRouteBackward(() => ({ expertScale: floats([E + 1]) })),
    'ERR_SHAPE',
    'expertScale: expected shape [12], got [13]',
  ],
  [
    'a gradient of the selection bias',
    badRouteBackward(() => ({ selectionBias: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    /^args: expected only the keys routing, .*, expertScale, noiseWeight, loraA, loraB, got "selectionBias"$/,
  ],
  [
    'the gradient of a scale that was not given',
    badRouteBackward(() => ({ expertScale: undefined, accumulateInto: { expertScale: floats([E]) } })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto.expertScale: expected nothing: this gradient is not computed, got a tensor',
  ],
  [
    'dropped slots of another shape',
    badRouteBackward(routing => ({ routing: { ...routing, dropped: ints([T]) } })),
    'ERR_SHAPE',
    'routing.dropped: expected shape [3, 2], got [3]',
  ],
];

const badDispatch = (change: () => object) =>
  using(dispatch, () => ({ indices: ints([T, K]), experts: E }), change);
const badMatmul = (change: () => object) =>
  using(
    groupedMatmul,
    () => ({
      rows: floats([T, H]),
      weight: floats([E, 2 * I, H]),
      offsets: ints([E + 1]),
      activation: 'swiglu',
    }),
    change,
  );

const OPS: BadCall[] = [
  [
    'dispatch: a negative number of identity experts',
    badDispatch(() => ({ identityExperts: -1 })),
    'ERR_INVALID_ARGUMENT',
    'identityExperts: expected an integer from 0 to 2147483647, got -1',
  ],
  [
    'dispatch: dropped slots of other tokens',
    badDispatch(() => ({ dropped: ints([T + 1, K]) })),
    'ERR_SHAPE',
    'dropped: expected shape [3, 2], got [4, 2]',
  ],
  [
    'dispatch: dropped slots as floats',
    badDispatch(() => ({ dropped: floats([T, K]) })),
    'ERR_DTYPE',
    'dropped: expected dtype int32, got float32',
  ],
  ...ACTIVATION_OPTIONS.map(
    ([title, change, sentence]): BadCall => [
      title,
      badMatmul(() => change),
      'ERR_INVALID_ARGUMENT',
      sentence,
    ],
  ),
];

describeBadCalls('route', ROUTE);
describeBadCalls('route by expert choice', [
  ...EXPERT_CHOICE_OPTIONS.map(refused(EXPERT_CHOICE)),
  [
    'identity experts',
    badRoute(() => ({ ...EXPERT_CHOICE(), identityExperts: 2 })),
    'ERR_INVALID_ARGUMENT',
    'router.identityExperts: expected nothing with expertChoice, got 2',
  ],
  [
    'a selection bias',
    badRoute(() => ({ ...EXPERT_CHOICE(), selectionBias: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    'selectionBias: expected nothing with expertChoice, got a tensor',
  ],
  [
    'K of 0',
    badRoute(() => ({ ...EXPERT_CHOICE(), topK: 0 })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected nothing with expertChoice, got 0',
  ],
  [
    'given indices',
    badRoute(() => ({ ...EXPERT_CHOICE(), indices: ints([T, E]) })),
    'ERR_INVALID_ARGUMENT',
    'router.expertChoice: expected nothing with given indices, got expertChoice',
  ],
]);
describeBadCalls('route to given experts', [
  ...GIVEN_OPTIONS.map(refused(GIVEN)),
  [
    'a selection bias',
    badRoute(() => ({ ...GIVEN(), selectionBias: floats([E]) })),
    'ERR_INVALID_ARGUMENT',
    'selectionBias: expected nothing with given indices, got a tensor',
  ],
  [
    'of another number than K',
    badRoute(() => ({ indices: ints([T, K + 1]) })),
    'ERR_SHAPE',
    'indices: expected shape [3, 2], got [3, 3]',
  ],
  [
    'as floats',
    badRoute(() => ({ indices: floats([T, K]) })),
    'ERR_DTYPE',
    'indices: expected dtype int32, got float32',
  ],
  [
    'without K',
    badRoute(() => ({ ...GIVEN(), topK: undefined })),
    'ERR_INVALID_ARGUMENT',
    'router.topK: expected an integer from 1 to 12, got undefined',
  ],
]);
describeBadCalls('routeBackward', ROUTE_BACKWARD);
describeBadCalls('dispatch and grouped matmul', OPS);
