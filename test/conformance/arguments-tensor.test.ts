// Wrong arguments of tensors and devices.

import { empty, setThreads, synchronize, type Tensor, type TensorSource, tensor } from '../../src/index.ts';
import { type BadCall, describeBadCalls, detached, disposed, floats, ints } from '../support/bad-calls.ts';

const any = (value: unknown) => value as never;
const four = () => new Float32Array(4);
const DTYPE_NAMES = 'float32, bfloat16, float16, int32';
const RANK = 'shape: expected up to 8 non-negative integers';
const SIZE = 'shape: expected sizes below 2^31 and at most 2^47 bytes';

function transferred(): TensorSource {
  const array = four();
  structuredClone(array.buffer, { transfer: [array.buffer] });
  return array;
}

function resizable(): TensorSource {
  const Resizable = ArrayBuffer as unknown as new (
    length: number,
    options: { maxByteLength: number },
  ) => ArrayBuffer;
  return new Float32Array(new Resizable(16, { maxByteLength: 64 }));
}

const CREATION: BadCall[] = [
  ['too many elements', () => () => tensor(four(), [3]), 'ERR_SHAPE', 'data: expected 3 elements, got 4'],
  ['too few elements', () => () => tensor([1, 2], [2, 2]), 'ERR_SHAPE', 'data: expected 4 elements, got 2'],
  ['a negative size', () => () => tensor(four(), [-4]), 'ERR_SHAPE', `${RANK}, got [-4]`],
  ['a fractional size', () => () => tensor(four(), [2.5]), 'ERR_SHAPE', `${RANK}, got [2.5]`],
  ['a NaN size', () => () => empty([NaN]), 'ERR_SHAPE', `${RANK}, got [NaN]`],
  [
    'nine dimensions',
    () => () => tensor(four(), any(Array(9).fill(1))),
    'ERR_SHAPE',
    `${RANK}, got an array of length 9`,
  ],
  ['a shape that is a string', () => () => tensor(four(), any('4')), 'ERR_SHAPE', `${RANK}, got "4"`],
  ['no shape', () => () => tensor(four(), any(undefined)), 'ERR_SHAPE', `${RANK}, got undefined`],
  ['a size of 2^31', () => () => empty([2 ** 31, 0]), 'ERR_SHAPE', `${SIZE}, got [2147483648, 0]`],
  [
    'sizes that overflow',
    () => () => empty([2 ** 30, 2 ** 30]),
    'ERR_SHAPE',
    `${SIZE}, got [1073741824, 1073741824]`,
  ],
  [
    'sizes that wrap around',
    () => () => empty(Array(8).fill(2 ** 16)),
    'ERR_SHAPE',
    `${SIZE}, got [${Array(8).fill(65536).join(', ')}]`,
  ],
  [
    'bits of no dtype',
    () => () => tensor(new Uint16Array(2), [2]),
    'ERR_DTYPE',
    'options.dtype: expected bfloat16 or float16 for a Uint16Array, got undefined',
  ],
  [
    'a Float64Array',
    () => () => tensor(any(new Float64Array(2)), [2]),
    'ERR_INVALID_ARGUMENT',
    'data: expected a Float32Array, Int32Array, Uint16Array or Float16Array, got Float64Array(2)',
  ],
  [
    'null',
    () => () => tensor(any(null), [0]),
    'ERR_INVALID_ARGUMENT',
    'data: expected a Float32Array, Int32Array, Uint16Array or Float16Array, got null',
  ],
  [
    'an unknown dtype',
    () => () => tensor(four(), [4], { dtype: any('float64') }),
    'ERR_DTYPE',
    `options.dtype: expected one of ${DTYPE_NAMES}, got "float64"`,
  ],
  [
    'a dtype from the prototype',
    () => () => empty([4], { dtype: any('toString') }),
    'ERR_DTYPE',
    `options.dtype: expected one of ${DTYPE_NAMES}, got "toString"`,
  ],
  [
    'integers as float32',
    () => () => tensor(new Int32Array(4), [4], { dtype: 'float32' }),
    'ERR_DTYPE',
    'data: expected Float32Array for float32, got Int32Array(4)',
  ],
  [
    'floats as int32',
    () => () => tensor(four(), [4], { dtype: 'int32' }),
    'ERR_DTYPE',
    'data: expected Int32Array for int32, got Float32Array(4)',
  ],
  [
    'copy as a string',
    () => () => tensor(four(), [4], { copy: any('no') }),
    'ERR_INVALID_ARGUMENT',
    'options.copy: expected a boolean, got "no"',
  ],
  [
    'sharing an array of numbers',
    () => () => tensor([1], [1], { copy: false }),
    'ERR_INVALID_ARGUMENT',
    'data: expected a TypedArray to share with copy: false, got an array',
  ],
  [
    'sharing floats as bfloat16',
    () => () => tensor(four(), [4], { copy: false, dtype: 'bfloat16' }),
    'ERR_DTYPE',
    'data: expected Uint16Array for bfloat16, got Float32Array(4)',
  ],
  [
    'sharing a resizable buffer',
    () => () => tensor(resizable(), [4], { copy: false }),
    'ERR_INVALID_ARGUMENT',
    'data: expected a buffer of fixed length with copy: false, got a resizable one',
  ],
  [
    'a detached array',
    () => {
      const array = transferred();
      return () => tensor(array, [4]);
    },
    'ERR_DETACHED',
    'data: expected an intact buffer, got a detached one',
  ],
  [
    'sharing a detached array',
    () => {
      const array = transferred();
      return () => tensor(array, [4], { copy: false });
    },
    'ERR_DETACHED',
    'data: expected an intact buffer, got a detached one',
  ],
  [
    'an unknown device',
    () => () => tensor(four(), [4], { device: any('gpu') }),
    'ERR_INVALID_ARGUMENT',
    'options.device: expected cpu or cuda:N, got "gpu"',
  ],
  [
    'a device that is a number',
    () => () => empty([4], { device: any(0) }),
    'ERR_INVALID_ARGUMENT',
    'options.device: expected cpu or cuda:N, got 0',
  ],
];

const onTensor =
  (use: (t: Tensor) => unknown, make: () => Tensor = () => floats([4])) =>
  () => {
    const made = make();
    return () => use(made);
  };
const gone = () => disposed(floats([4]));
const DEAD = 'tensor: expected a live tensor, got a disposed one';
const LOST = 'tensor: expected a tensor whose shared buffer is intact, got one whose buffer was detached';

const USE: BadCall[] = [
  [
    'writing another type',
    onTensor(t => t.write(new Int32Array(4))),
    'ERR_DTYPE',
    'source: expected Float32Array for float32, got Int32Array(4)',
  ],
  [
    'writing another length',
    onTensor(t => t.write(new Float32Array(3))),
    'ERR_SHAPE',
    'source: expected 4 elements, got 3',
  ],
  [
    'writing a detached array',
    onTensor(t => t.write(transferred())),
    'ERR_DETACHED',
    'source: expected an intact buffer, got a detached one',
  ],
  [
    'casting to nothing known',
    onTensor(t => t.cast(any('int8'))),
    'ERR_DTYPE',
    `dtype: expected one of ${DTYPE_NAMES}, got "int8"`,
  ],
  [
    'casting bfloat16 to int32',
    onTensor(
      t => t.cast('int32'),
      () => floats([4], 'bfloat16'),
    ),
    'ERR_DTYPE',
    'dtype: expected float32 to or from int32, got bfloat16 to int32',
  ],
  [
    'casting int32 to float16',
    onTensor(
      t => t.cast('float16'),
      () => ints([4]),
    ),
    'ERR_DTYPE',
    'dtype: expected float32 to or from int32, got int32 to float16',
  ],
  ['reading a disposed tensor', onTensor(t => t.dataSync(), gone), 'ERR_DISPOSED', DEAD],
  ['writing a disposed tensor', onTensor(t => t.write(four()), gone), 'ERR_DISPOSED', DEAD],
  ['casting a disposed tensor', onTensor(t => t.cast('float16'), gone), 'ERR_DISPOSED', DEAD],
  [
    'reading a detached tensor',
    onTensor(
      t => t.dataSync(),
      () => detached([4]),
    ),
    'ERR_DETACHED',
    LOST,
  ],
  [
    'casting a detached tensor',
    onTensor(
      t => t.cast('float16'),
      () => detached([4]),
    ),
    'ERR_DETACHED',
    LOST,
  ],
];

const DEVICE: BadCall[] = [
  [
    'no thread',
    () => () => setThreads(0),
    'ERR_INVALID_ARGUMENT',
    'count: expected an integer from 1 to 1024, got 0',
  ],
  [
    'half a thread',
    () => () => setThreads(1.5),
    'ERR_INVALID_ARGUMENT',
    'count: expected an integer from 1 to 1024, got 1.5',
  ],
  [
    '2000 threads',
    () => () => setThreads(2000),
    'ERR_INVALID_ARGUMENT',
    'count: expected an integer from 1 to 1024, got 2000',
  ],
  [
    'threads as a string',
    () => () => setThreads(any('4')),
    'ERR_INVALID_ARGUMENT',
    'count: expected an integer from 1 to 1024, got "4"',
  ],
  [
    'waiting for an unknown device',
    () => () => synchronize(any('tpu')),
    'ERR_INVALID_ARGUMENT',
    'device: expected cpu or cuda:N, got "tpu"',
  ],
];

describeBadCalls('creating tensors', CREATION);
describeBadCalls('using tensors', USE);
describeBadCalls('devices', DEVICE);
