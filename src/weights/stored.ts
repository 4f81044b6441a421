// Which form a matrix is stored in, and whether its tensors are what that form and the layer's configuration need: as far as
// headers tell.

import type { FloatDType } from '../dtype.ts';
import { MoeError } from '../errors.ts';
import { fileError, type SafetensorsDType } from '../safetensors.ts';
import { elementCount } from '../tensor.ts';
import type { Checkpoint, StoredTensor } from './checkpoint.ts';
import { FP8_BLOCK, fp8Matrix } from './fp8.ts';
import { plainMatrix, type StoredMatrix } from './matrix.ts';
import { MXFP4_GROUP, MXFP4_GROUP_BYTES, mxfp4Matrix } from './mxfp4.ts';

/** A matrix as it lies in a checkpoint. */
export interface MatrixPlace {
  /** Of the tensor that holds it; in MXFP4 of its blocks. */
  readonly name: string;
  readonly mxfp4: boolean;
  /** [rows, columns], or [rows] of a vector */
  readonly matrix: readonly number[];
  /** Of a tensor that holds every expert's: their number E, which of them it is, and whether E is one axis with the rows. */
  readonly stack: { readonly count: number; readonly index: number; readonly flat: boolean } | undefined;
}

const FLOATS: Readonly<Partial<Record<SafetensorsDType, FloatDType>>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
};

/** @throws MoeError ERR_FILE for tensors that are missing or not what they must be, ERR_UNSUPPORTED for an unknown form */
export async function findMatrix(checkpoint: Checkpoint, place: MatrixPlace): Promise<StoredMatrix> {
  if (place.mxfp4) return await findMxfp4(checkpoint, place);
  refuseOtherForms(checkpoint, place.name);
  const tensor = await checkpoint.find(place.name);
  checkShape(tensor, stackedShape(place));
  const scales = `${place.name}_scale_inv`;
  const scaled = tensor.entry.dtype === 'F8_E4M3' || checkpoint.has(scales);
  if (scaled && place.stack === undefined) return await findFp8(checkpoint, tensor, place, scales);
  return findPlain(tensor, place);
}

function findPlain(tensor: StoredTensor, { matrix, stack }: MatrixPlace): StoredMatrix {
  const [rows, columns = 1] = matrix as [number, number?];
  const start = (stack?.index ?? 0) * elementCount(matrix);
  return plainMatrix(tensor, { dtype: floatDType(tensor), start, rows, columns });
}

async function findFp8(
  checkpoint: Checkpoint,
  tensor: StoredTensor,
  { matrix }: MatrixPlace,
  scalesName: string,
): Promise<StoredMatrix> {
  checkDType(tensor, 'F8_E4M3', `for there is ${scalesName}`);
  const scales = await checkpoint.find(scalesName);
  const blocks = matrix.map(size => Math.ceil(size / FP8_BLOCK));
  checkShape(scales, blocks);
  const factors = findPlain(scales, {
    ...{ name: scalesName, mxfp4: false, stack: undefined },
    matrix: blocks,
  });
  const [rows, columns = 1] = matrix as [number, number?];
  return fp8Matrix(tensor, factors, { rows, columns });
}

async function findMxfp4(
  checkpoint: Checkpoint,
  { name, matrix, stack }: MatrixPlace,
): Promise<StoredMatrix> {
  const [rows, columns] = matrix as [number, number];
  const blocks = await checkpoint.find(name);
  if (columns % MXFP4_GROUP !== 0) {
    throw fileError(blocks.file.path, name, `a multiple of ${MXFP4_GROUP} columns`, `${columns}`);
  }
  const scales = await checkpoint.find(name.replace(/_blocks$/, '_scales'));
  const shape = stackedShape({ matrix: [rows, columns / MXFP4_GROUP], stack });
  checkShape(blocks, [...shape, MXFP4_GROUP_BYTES]);
  checkShape(scales, shape);
  for (const tensor of [blocks, scales]) checkDType(tensor, 'U8', 'as MXFP4 is stored');
  return mxfp4Matrix({ blocks, scales }, { rows, columns, matrices: stack?.index ?? 0 });
}

/** A matrix that is missing, but there in a form that is not read. */
function refuseOtherForms(checkpoint: Checkpoint, name: string): void {
  if (checkpoint.has(name)) return;
  const forms = {
    [`${name}_blocks`]: 'MXFP4',
    [name.replace(/weight$/, 'qweight')]: 'GPTQ or AWQ',
    [name.replace(/weight$/, 'weight_packed')]: 'compressed-tensors',
  };
  const found = Object.entries(forms).find(([other]) => checkpoint.has(other));
  if (found === undefined) return;
  const [other, form] = found;
  throw new MoeError(
    'ERR_UNSUPPORTED',
    `${checkpoint.path}: ${name}: expected float32, float16 or bfloat16, got ${form} (${other})`,
  );
}

function stackedShape({ matrix, stack }: Pick<MatrixPlace, 'matrix' | 'stack'>): number[] {
  if (stack === undefined) return [...matrix];
  const [rows, ...columns] = matrix as [number, ...number[]];
  return stack.flat ? [stack.count * rows, ...columns] : [stack.count, ...matrix];
}

function checkShape({ file, name, entry }: StoredTensor, shape: readonly number[]): void {
  if (entry.shape.join() === shape.join()) return;
  throw fileError(file.path, name, `shape [${shape.join(', ')}]`, `[${entry.shape.join(', ')}]`);
}

function checkDType({ file, name, entry }: StoredTensor, dtype: SafetensorsDType, reason: string): void {
  if (entry.dtype !== dtype) throw fileError(file.path, name, `dtype ${dtype}, ${reason}`, entry.dtype);
}

function floatDType({ file, name, entry }: StoredTensor): FloatDType {
  const dtype = FLOATS[entry.dtype];
  if (dtype !== undefined) return dtype;
  throw fileError(file.path, name, `dtype ${Object.keys(FLOATS).join(', ')}`, entry.dtype);
}
