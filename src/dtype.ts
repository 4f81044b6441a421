// The element types of tensors and the TypedArrays they travel in.

import { badArgument } from './errors.ts';

/** Element type of a tensor. `bfloat16` and `float16` are storage types: all accumulation and routing is in float32. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'int32';
/** The dtypes of activations, weights and gradients. */
export type FloatDType = Exclude<DType, 'int32'>;
/** What `data()` returns: `Float32Array` for float32, `Int32Array` for int32, `Uint16Array` (the bits) for bfloat16 and float16. */
export type TensorData = Float32Array | Int32Array | Uint16Array;

interface DTypeInfo {
  readonly bytes: number;
  readonly array: new (length: number) => TensorData;
}

export const DTYPES: Readonly<Record<DType, DTypeInfo>> = {
  float32: { bytes: 4, array: Float32Array },
  bfloat16: { bytes: 2, array: Uint16Array },
  float16: { bytes: 2, array: Uint16Array },
  int32: { bytes: 4, array: Int32Array },
};

export const FLOAT_DTYPES = ['float32', 'bfloat16', 'float16'] as const satisfies readonly FloatDType[];

export function isDType(value: unknown): value is DType {
  return typeof value === 'string' && Object.hasOwn(DTYPES, value);
}

export function checkDType(name: string, value: unknown): DType {
  if (!isDType(value)) {
    throw badArgument('ERR_DTYPE', name, `one of ${Object.keys(DTYPES).join(', ')}`, describe(value));
  }
  return value;
}

/** A short description of any value for an error message: never the content of a large one. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint')
    return String(value);
  if (Array.isArray(value)) {
    return value.length <= 8 && value.every(v => typeof v === 'number')
      ? `[${value.join(', ')}]`
      : `an array of length ${value.length}`;
  }
  if (ArrayBuffer.isView(value)) return `${value.constructor.name}(${(value as Float32Array).length ?? '?'})`;
  return typeof value === 'object'
    ? `an object (${value.constructor?.name ?? 'no prototype'})`
    : `a ${typeof value}`;
}
