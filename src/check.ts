// Argument checks shared by every public function: each throws a MoeError with one sentence before anything is enqueued.

import { type DType, describe } from './dtype.ts';
import { badArgument, MoeError } from './errors.ts';
import { Tensor } from './tensor.ts';

/** What a tensor argument must be. A `null` dimension may have any size. */
export interface TensorSpec {
  readonly dtype?: DType | readonly DType[];
  readonly shape?: readonly (number | null)[];
}

export function checkTensor(name: string, value: unknown, spec: TensorSpec = {}): Tensor {
  if (!(value instanceof Tensor))
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'a Tensor', describe(value));
  value.assertUsable(name);
  const { dtype, shape } = spec;
  if (
    dtype !== undefined &&
    !(typeof dtype === 'string' ? value.dtype === dtype : dtype.includes(value.dtype))
  ) {
    const expected = typeof dtype === 'string' ? dtype : [...new Set(dtype)].join(' or ');
    throw badArgument('ERR_DTYPE', name, `dtype ${expected}`, value.dtype);
  }
  if (shape !== undefined && !shapeMatches(value.shape, shape)) {
    const expected = shape.map(size => size ?? '*').join(', ');
    throw badArgument('ERR_SHAPE', name, `shape [${expected}]`, `[${value.shape.join(', ')}]`);
  }
  return value;
}

export function checkOptionalTensor(name: string, value: unknown, spec: TensorSpec = {}): Tensor | undefined {
  return value === undefined ? undefined : checkTensor(name, value, spec);
}

function shapeMatches(actual: readonly number[], expected: readonly (number | null)[]): boolean {
  return (
    actual.length === expected.length &&
    expected.every((size, axis) => size === null || size === actual[axis])
  );
}

/** All on one device: kernels never move data behind the caller's back. */
export function checkSameDevice(tensors: Readonly<Record<string, Tensor | undefined>>): void {
  let first: [string, Tensor] | undefined;
  for (const [name, tensor] of Object.entries(tensors)) {
    if (tensor === undefined) continue;
    first ??= [name, tensor];
    if (tensor.device !== first[1].device) {
      const expected = `device ${first[1].device} (that of ${first[0]})`;
      throw badArgument('ERR_DEVICE_MISMATCH', name, expected, tensor.device);
    }
  }
}

/** An options object with no keys but the known ones: a misspelt option must not be ignored. */
export function checkKeys(name: string, value: unknown, known: readonly string[]): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'an object', describe(value));
  }
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) {
      throw badArgument('ERR_INVALID_ARGUMENT', name, `only the keys ${known.join(', ')}`, describe(key));
    }
  }
}

export function checkInteger(name: string, value: unknown, min: number, max = 2 ** 31 - 1): number {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
    throw badArgument('ERR_INVALID_ARGUMENT', name, `an integer from ${min} to ${max}`, describe(value));
  }
  return value as number;
}

export function checkFinite(name: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'a finite number', describe(value));
  }
  return value;
}

export function checkNotNegative(name: string, value: unknown): number {
  const number = checkFinite(name, value);
  if (number < 0) throw badArgument('ERR_INVALID_ARGUMENT', name, 'a number ≥ 0', String(number));
  return number;
}

export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean')
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'a boolean', describe(value));
  return value;
}

export function checkOneOf<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  if (!choices.includes(value as T)) {
    throw badArgument('ERR_INVALID_ARGUMENT', name, `one of ${choices.join(', ')}`, describe(value));
  }
  return value as T;
}

/** Rows R = T·K are counted in int32 throughout. */
export function checkRowCount(tokens: number, topK: number): number {
  const rows = tokens * topK;
  if (rows > 2 ** 31 - 1) {
    throw new MoeError('ERR_SHAPE', `tokens × topK: expected at most 2147483647 routed rows, got ${rows}`);
  }
  return rows;
}
