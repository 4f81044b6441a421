// Writes beyond element 2³² of a tensor, which is as far as an array can reach, and prints what a product with that part gives.

import { empty, groupedMatmul, tensor } from '../../../src/index.ts';

/** Poisoning would touch all 8 GiB; unwritten memory costs nothing. */
delete process.env.MOE_KERNELS_POISON;

const SIZE = 1024;
const EXPERTS = 2 ** 32 / SIZE ** 2 + 1;

using weight = empty([EXPERTS, SIZE, SIZE], { dtype: 'bfloat16' });
const [one, two] = [0x3f80, 0x4000];
const last = (EXPERTS - 1) * SIZE ** 2;
/** Columns of the last expert's matrix: 2 in the first row, 1 in the others. */
weight.write(new Uint16Array(SIZE).fill(two), { at: last });
weight.write(new Uint16Array(SIZE ** 2 - SIZE).fill(one), { at: last + SIZE });
using rows = tensor(new Uint16Array(SIZE).fill(one), [1, SIZE], { dtype: 'bfloat16' });
using offsets = tensor(
  Int32Array.from({ length: EXPERTS + 1 }, (_, e) => (e === EXPERTS ? 1 : 0)),
  [EXPERTS + 1],
);
const { out } = groupedMatmul({ rows, weight, offsets });
const values = await out.float32();
console.log(JSON.stringify({ elements: weight.size, first: values[0], sum: values.reduce((a, b) => a + b) }));
