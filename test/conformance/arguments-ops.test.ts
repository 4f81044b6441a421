// Wrong arguments of dispatch, combine and grouped matmul.

import {
  dispatch,
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
  permute,
  permuteBackward,
  unpermute,
  unpermuteBackward,
} from '../../src/index.ts';
import { type BadCall, describeBadCalls, floats, ints, using } from '../support/bad-calls.ts';

const [T, H, E, K, N] = [3, 4, 5, 2, 8];
const R = T * K;
const FLOAT = 'dtype float32 or bfloat16 or float16';

const badPermute = (change: () => object) =>
  using(permute, () => ({ x: floats([T, H]), indices: ints([T, K]), experts: E }), change);
const permutation = () => ({ offsets: ints([E + 1]), rowSlot: ints([R]), slotRow: ints([T, K]) });
const badUnpermute = (change: () => object) =>
  using(unpermute, () => ({ rows: floats([R, H]), dispatch: permutation() }), change);

const PERMUTE: BadCall[] = [
  [
    'float indices',
    badPermute(() => ({ indices: floats([T, K]) })),
    'ERR_DTYPE',
    'indices: expected dtype int32, got float32',
  ],
  [
    'flat indices',
    using(
      dispatch,
      () => ({ indices: ints([R]), experts: E }),
      () => ({}),
    ),
    'ERR_SHAPE',
    'indices: expected shape [*, *], got [6]',
  ],
  [
    'no expert',
    badPermute(() => ({ experts: 0 })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected an integer from 1 to 2147483647, got 0',
  ],
  [
    'experts as a string',
    badPermute(() => ({ experts: '5' })),
    'ERR_INVALID_ARGUMENT',
    'experts: expected an integer from 1 to 2147483647, got "5"',
  ],
  [
    'x of other tokens',
    badPermute(() => ({ x: floats([4, H]) })),
    'ERR_SHAPE',
    'x: expected shape [3, *], got [4, 4]',
  ],
  ['x of integers', badPermute(() => ({ x: ints([T, H]) })), 'ERR_DTYPE', `x: expected ${FLOAT}, got int32`],
  [
    'an empty dispatch',
    badUnpermute(() => ({ dispatch: {} })),
    'ERR_INVALID_ARGUMENT',
    'dispatch.slotRow: expected a Tensor, got undefined',
  ],
  [
    'a dispatch with more in it',
    badUnpermute(() => ({ dispatch: { ...permutation(), counts: ints([E]) } })),
    'ERR_INVALID_ARGUMENT',
    'dispatch: expected only the keys offsets, rowSlot, slotRow, got "counts"',
  ],
  [
    'a dispatch that does not fit',
    badUnpermute(() => ({ dispatch: { ...permutation(), rowSlot: ints([5]) } })),
    'ERR_SHAPE',
    'rows: expected shape [5, *], got [6, 4]',
  ],
  [
    'a dispatch of no expert',
    badUnpermute(() => ({ dispatch: { ...permutation(), offsets: ints([1]) } })),
    'ERR_INVALID_ARGUMENT',
    'dispatch.offsets.shape[0] - 1: expected an integer from 1 to 2147483647, got 0',
  ],
  [
    'rows that do not fit',
    badUnpermute(() => ({ rows: floats([5, H]) })),
    'ERR_SHAPE',
    'rows: expected shape [6, *], got [5, 4]',
  ],
  [
    '16-bit weights',
    badUnpermute(() => ({ weights: floats([T, K], 'bfloat16') })),
    'ERR_DTYPE',
    'weights: expected dtype float32, got bfloat16',
  ],
  [
    'dRows that do not fit',
    using(
      permuteBackward,
      () => ({ dRows: floats([T, H]), dispatch: permutation() }),
      () => ({}),
    ),
    'ERR_SHAPE',
    'dRows: expected shape [6, *], got [3, 4]',
  ],
  [
    'rows without weights',
    using(
      unpermuteBackward,
      () => ({ dy: floats([T, H]), dispatch: permutation(), rows: floats([R, H]) }),
      () => ({}),
    ),
    'ERR_INVALID_ARGUMENT',
    'weights: expected the weights whose gradient rows asks for, got undefined',
  ],
  [
    'dy of other tokens',
    using(
      unpermuteBackward,
      () => ({ dy: floats([R, H]), dispatch: permutation() }),
      () => ({}),
    ),
    'ERR_SHAPE',
    'dy: expected shape [3, *], got [6, 4]',
  ],
];

const badMatmul = (change: () => object) =>
  using(
    groupedMatmul,
    () => ({ rows: floats([R, H]), weight: floats([E, N, H]), offsets: ints([E + 1]) }),
    change,
  );
const badDgrad = (change: () => object) =>
  using(
    groupedMatmulDgrad,
    () => ({ dOut: floats([R, N]), weight: floats([E, N, H]), offsets: ints([E + 1]) }),
    change,
  );
const badWgrad = (change: () => object) =>
  using(
    groupedMatmulWgrad,
    () => ({ dOut: floats([R, N]), rows: floats([R, H]), offsets: ints([E + 1]) }),
    change,
  );
const ACTIVATION_NAMES =
  'identity, relu, gelu, gelu_tanh, silu, relu2, swiglu, geglu, geglu_tanh, reglu, swiglu_clamped';

const MATMUL: BadCall[] = [
  [
    'rows of integers',
    badMatmul(() => ({ rows: ints([R, H]) })),
    'ERR_DTYPE',
    `rows: expected ${FLOAT}, got int32`,
  ],
  [
    'a weight of another dtype',
    badMatmul(() => ({ weight: floats([E, N, H], 'float16') })),
    'ERR_DTYPE',
    'weight: expected dtype float32, got float16',
  ],
  [
    'a transposed weight',
    badMatmul(() => ({ weight: floats([E, H, N]) })),
    'ERR_SHAPE',
    'weight: expected shape [*, *, 4], got [5, 4, 8]',
  ],
  [
    'offsets of other experts',
    badMatmul(() => ({ offsets: ints([E]) })),
    'ERR_SHAPE',
    'offsets: expected shape [6], got [5]',
  ],
  [
    'float offsets',
    badMatmul(() => ({ offsets: floats([E + 1]) })),
    'ERR_DTYPE',
    'offsets: expected dtype int32, got float32',
  ],
  [
    'a bias of another width',
    badMatmul(() => ({ bias: floats([E, 7]) })),
    'ERR_SHAPE',
    'bias: expected shape [5, 8], got [5, 7]',
  ],
  [
    'an unknown activation',
    badMatmul(() => ({ activation: 'mish' })),
    'ERR_INVALID_ARGUMENT',
    `activation: expected one of ${ACTIVATION_NAMES}, got "mish"`,
  ],
  [
    'an odd width, gated',
    badMatmul(() => ({ weight: floats([E, 7, H]), activation: 'swiglu' })),
    'ERR_SHAPE',
    'weight: expected an even number of output rows for swiglu, got 7',
  ],
  [
    'savePreActivation as a string',
    badMatmul(() => ({ savePreActivation: 'no' })),
    'ERR_INVALID_ARGUMENT',
    'savePreActivation: expected a boolean, got "no"',
  ],
  [
    'dgrad: dOut of another width',
    badDgrad(() => ({ dOut: floats([R, 7]) })),
    'ERR_SHAPE',
    'weight: expected shape [*, 7, *], got [5, 8, 4]',
  ],
  [
    'dgrad: no pre-activation',
    badDgrad(() => ({ activation: 'gelu' })),
    'ERR_INVALID_ARGUMENT',
    'preActivation: expected the rows gelu was applied to, got undefined',
  ],
  [
    'dgrad: half a pre-activation',
    badDgrad(() => ({ activation: 'swiglu', preActivation: floats([R, H]) })),
    'ERR_SHAPE',
    'preActivation: expected shape [6, 8], got [6, 4]',
  ],
  [
    'wgrad: rows that do not fit',
    badWgrad(() => ({ rows: floats([5, H]) })),
    'ERR_SHAPE',
    'rows: expected shape [6, *], got [5, 4]',
  ],
  [
    'wgrad: no expert',
    badWgrad(() => ({ offsets: ints([1]) })),
    'ERR_SHAPE',
    'offsets: expected shape [E+1] with E ≥ 1, got [1]',
  ],
  [
    'wgrad: an unknown gradient',
    badWgrad(() => ({ accumulateInto: { down: floats([1]) } })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto: expected only the keys weight, bias, got "down"',
  ],
  [
    'wgrad: a gradient of another shape',
    badWgrad(() => ({ accumulateInto: { weight: floats([E, H, N]) } })),
    'ERR_SHAPE',
    'accumulateInto.weight: expected shape [5, 8, 4], got [5, 4, 8]',
  ],
  [
    'wgrad: a gradient that is no tensor',
    badWgrad(() => ({ accumulateInto: { weight: new Float32Array(3) } })),
    'ERR_INVALID_ARGUMENT',
    'accumulateInto.weight: expected a Tensor, got Float32Array(3)',
  ],
];

const LAYOUTS: BadCall[] = [
  [
    'an unknown layout',
    badMatmul(() => ({ activation: 'swiglu', gateUpLayout: 'halves' })),
    'ERR_INVALID_ARGUMENT',
    'gateUpLayout: expected one of concatenated, interleaved, got "halves"',
  ],
  [
    'interleaved without an activation',
    badMatmul(() => ({ gateUpLayout: 'interleaved' })),
    'ERR_INVALID_ARGUMENT',
    'gateUpLayout: expected concatenated unless gate and up are one tensor, got interleaved',
  ],
  [
    'a weight that is not transposed',
    badMatmul(() => ({ transposed: true })),
    'ERR_SHAPE',
    'weight: expected shape [*, 4, *], got [5, 8, 4]',
  ],
  [
    'a bias as wide as a transposed weight is deep',
    badMatmul(() => ({ transposed: true, weight: floats([E, H, N]), bias: floats([E, H]) })),
    'ERR_SHAPE',
    'bias: expected shape [5, 8], got [5, 4]',
  ],
  [
    'dgrad of a weight that is not transposed',
    badDgrad(() => ({ transposed: true })),
    'ERR_SHAPE',
    'weight: expected shape [*, *, 8], got [5, 8, 4]',
  ],
  [
    'dgrad, transposed as text',
    badDgrad(() => ({ transposed: 'yes' })),
    'ERR_INVALID_ARGUMENT',
    'transposed: expected a boolean, got "yes"',
  ],
  [
    'dgrad through rows that alternate between nothing',
    badDgrad(() => ({ activation: 'relu', gateUpLayout: 'interleaved', preActivation: floats([R, H]) })),
    'ERR_INVALID_ARGUMENT',
    'gateUpLayout: expected concatenated unless gate and up are one tensor, got interleaved',
  ],
  [
    'wgrad into a buffer that is not transposed',
    badWgrad(() => ({ transposed: true, accumulateInto: { weight: floats([E, N, H]) } })),
    'ERR_SHAPE',
    'accumulateInto.weight: expected shape [5, 4, 8], got [5, 8, 4]',
  ],
  [
    'wgrad of interleaved rows, which have no order of their own there',
    badWgrad(() => ({ gateUpLayout: 'interleaved' })),
    'ERR_INVALID_ARGUMENT',
    /^args: expected only the keys dOut, .*, got "gateUpLayout"$/,
  ],
];

describeBadCalls('permute and unpermute', PERMUTE);
describeBadCalls('grouped matmul', MATMUL);
describeBadCalls('layouts of grouped matmul', LAYOUTS);
