// The one error type of the package: a sentence for people, a stable `code` for programs.

/**
 * - `ERR_INVALID_ARGUMENT`: a value of the wrong type or range, or an option that does not exist.
 * - `ERR_SHAPE`: a tensor whose shape is not the one the operation needs, or a size that overflows.
 * - `ERR_DTYPE`: a tensor whose dtype is not one the operation accepts here.
 * - `ERR_DEVICE_MISMATCH`: a tensor on another device than its neighbours.
 * - `ERR_DISPOSED`: a tensor or layer that was disposed.
 * - `ERR_DETACHED`: a zero-copy tensor whose buffer was detached or transferred.
 * - `ERR_UNSUPPORTED`: a valid request that this build or device does not implement.
 * - `ERR_OUT_OF_MEMORY`: native memory could not be allocated.
 * - `ERR_INDEX_RANGE`: expert ids or offsets inside a tensor were out of range; found while running, thrown at the next wait.
 * - `ERR_CAPTURE`: something that cannot be part of a graph, asked for while one is captured.
 * - `ERR_DEVICE`: a device failed while running; thrown at the next wait.
 * - `ERR_BINARY`: the native addon could not be loaded.
 * - `ERR_FILE`: a file that is not what its format demands.
 */
export type ErrorCode =
  | 'ERR_INVALID_ARGUMENT'
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_DEVICE_MISMATCH'
  | 'ERR_DISPOSED'
  | 'ERR_DETACHED'
  | 'ERR_UNSUPPORTED'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_INDEX_RANGE'
  | 'ERR_CAPTURE'
  | 'ERR_DEVICE'
  | 'ERR_BINARY'
  | 'ERR_FILE';

/** Every error this package throws on purpose. `message` is one sentence: the argument, what was expected, what came. */
export class MoeError extends Error {
  override readonly name = 'MoeError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** `name: expected …, got …`, the one form of sentence in which a bad argument is reported. */
export function badArgument(code: ErrorCode, name: string, expected: string, got: string): MoeError {
  return new MoeError(code, `${name}: expected ${expected}, got ${got}`);
}
