// Calls remembered by their signature. What an op checks, the shapes of its results and the description of what it enqueues follow
// from its options and from dtype, shape and device of its tensors, never from what lies in them. So a call like an earlier one is
// neither checked nor described again: the addon enqueues the same ops for its tensors.

import { retireHandle, takeHandle } from './handles.ts';
import { type NativeProgram, type NativeTensor, native, rethrow } from './native.ts';
import { adopt, Tensor, type TensorParts, usableHandle } from './tensor.ts';

/** Calls of one function, the latest first. */
export type Calls = RememberedCall[];

interface RememberedCall {
  readonly args: Pattern;
  /** How many tensors they were, each counted once. */
  readonly tensors: number;
  /** How to do it again; undefined before it was recorded, null where it cannot be. */
  replay: Replay | null | undefined;
}

interface Replay {
  readonly program: NativeProgram;
  readonly made: readonly TensorParts[];
  readonly result: Template;
}

/** So many signatures of one function are kept. */
const MOST_CALLS = 8;

let recording = false;

/**
 * Calls `body` with `args`, or does again what it did with arguments like them. The second call of a signature is recorded.
 * @param body does nothing but check, make tensors and enqueue ops, by its arguments alone; it refuses arguments by throwing
 */
export function recall<A extends object, R>(calls: Calls, args: A, body: (args: A) => R): R {
  if (recording) return body(args);
  for (let i = 0; i < calls.length; i++) {
    const call = calls[i]!;
    const given = new Given();
    if (!isLike(call.args, args, given)) continue;
    if (i > 0) calls.unshift(...calls.splice(i, 1));
    if (call.replay) return repeat(call.replay, given) as R;
    // Of one tensor given twice, where there were two, a recording would not know which is meant.
    const canRecord = call.replay === undefined && new Set(given.tensors).size === call.tensors;
    return canRecord ? record(call, given, args, body) : body(args);
  }
  const result = body(args);
  const tensors: Tensor[] = [];
  const pattern = patternOf(args, tensors);
  if (pattern) calls.unshift({ args: pattern, tensors: new Set(tensors).size, replay: undefined });
  if (calls.length > MOST_CALLS) calls.pop();
  return result;
}

/** The tensors and objects of some arguments, each in the order of the pattern. */
class Given {
  readonly tensors: Tensor[] = [];
  readonly handles: NativeTensor[] = [];
  readonly objects: object[] = [];
}

/** What a value must be to be like another. */
type Pattern = ValuePattern | TensorPattern | ObjectPattern;

class ValuePattern {
  readonly value: unknown;

  constructor(value: unknown) {
    this.value = value;
  }
}

class TensorPattern {
  readonly dtype: string;
  readonly device: string;
  readonly shape: readonly number[];
  /** Which of the tensors before it was the same one, or -1. */
  readonly twin: number;

  constructor({ dtype, device, shape }: Tensor, twin: number) {
    this.dtype = dtype;
    this.device = device;
    this.shape = shape;
    this.twin = twin;
  }
}

class ObjectPattern {
  readonly prototype: object | null;
  readonly keys: readonly string[];
  readonly parts: readonly Pattern[];

  constructor(prototype: object | null, keys: readonly string[], parts: readonly Pattern[]) {
    this.prototype = prototype;
    this.keys = keys;
    this.parts = parts;
  }
}

/** Collects what is given on the way; tensors that may not be used are like none. */
function isLike(pattern: Pattern, value: unknown, given: Given): boolean {
  if (pattern instanceof ValuePattern) return Object.is(pattern.value, value);
  if (pattern instanceof TensorPattern) return value instanceof Tensor && isLikeTensor(pattern, value, given);
  return typeof value === 'object' && value !== null && isLikeObject(pattern, value, given);
}

function isLikeTensor(pattern: TensorPattern, tensor: Tensor, given: Given): boolean {
  const handle = usableHandle(tensor);
  if (handle === undefined || tensor.dtype !== pattern.dtype || tensor.device !== pattern.device)
    return false;
  if (!sameShape(tensor.shape, pattern.shape)) return false;
  if (pattern.twin >= 0 && given.tensors[pattern.twin] !== tensor) return false;
  given.tensors.push(tensor);
  given.handles.push(handle);
  return true;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let axis = 0; axis < a.length; axis++) if (a[axis] !== b[axis]) return false;
  return true;
}

function isLikeObject(pattern: ObjectPattern, value: object, given: Given): boolean {
  if (Object.getPrototypeOf(value) !== pattern.prototype) return false;
  given.objects.push(value);
  const { keys, parts } = pattern;
  let at = 0;
  for (const key in value) {
    if (key !== keys[at] || !isLike(parts[at]!, (value as Fields)[key], given)) return false;
    at++;
  }
  return at === keys.length;
}

type Fields = { [key: string]: unknown };

/** Classes whose instances are nothing but their fields. */
const records = new Set<object | null>([Object.prototype, null]);

/** Lets calls be remembered that take or return instances of a class, which must be nothing but their fields. */
export function treatAsRecord(type: { readonly prototype: object }): void {
  records.add(type.prototype);
}

/** Undefined for what only `body` may judge. */
function patternOf(value: unknown, tensors: Tensor[]): Pattern | undefined {
  if (typeof value === 'function') return undefined;
  if (typeof value !== 'object' || value === null) return new ValuePattern(value);
  if (value instanceof Tensor) {
    const twin = tensors.indexOf(value);
    tensors.push(value);
    return new TensorPattern(value, twin);
  }
  const prototype = Object.getPrototypeOf(value);
  if (!records.has(prototype)) return undefined;
  const keys: string[] = [];
  const parts: Pattern[] = [];
  for (const key in value) {
    const part = patternOf((value as Fields)[key], tensors);
    if (!part) return undefined;
    keys.push(key);
    parts.push(part);
  }
  return new ObjectPattern(prototype, keys, parts);
}

/** How to make a result: a constant, one of the tensors given or made, one of the objects given, or an object of such parts. */
type Template =
  | { readonly kind: 'constant'; readonly value: unknown }
  | { readonly kind: 'tensor' | 'made' | 'object'; readonly at: number }
  | {
      readonly kind: 'record';
      readonly prototype: object | null;
      readonly keys: readonly string[];
      readonly parts: readonly Template[];
    };

function record<A, R>(call: RememberedCall, given: Given, args: A, body: (args: A) => R): R {
  const result = whileRecording(given.handles, () => body(args));
  const made: Tensor[] = [];
  const template = templateOf(result, given, made);
  const handles = made.map(usableHandle).filter(handle => handle !== undefined);
  const program = native.endRecording(...handles);
  const parts = made.map(({ dtype, shape, device }) => ({ dtype, shape, device }));
  const isWhole = handles.length === made.length;
  call.replay = program && template && isWhole ? { program, made: parts, result: template } : null;
  return result;
}

/** The recording is left to be ended, unless `body` throws. */
function whileRecording<R>(handles: readonly NativeTensor[], body: () => R): R {
  recording = true;
  native.beginRecording(...handles);
  try {
    return body();
  } catch (error) {
    native.endRecording();
    throw error;
  } finally {
    recording = false;
  }
}

/** Collects the tensors that the call made. Undefined for a result that cannot be made again. */
function templateOf(value: unknown, given: Given, made: Tensor[]): Template | undefined {
  if (typeof value !== 'object' || value === null) return { kind: 'constant', value };
  if (value instanceof Tensor) {
    const at = given.tensors.indexOf(value);
    if (at >= 0) return { kind: 'tensor', at };
    if (!made.includes(value)) made.push(value);
    return { kind: 'made', at: made.indexOf(value) };
  }
  const at = given.objects.indexOf(value);
  if (at >= 0) return { kind: 'object', at };
  const prototype = Object.getPrototypeOf(value);
  if (!records.has(prototype)) return undefined;
  const keys = Object.keys(value);
  const parts = keys.map(key => templateOf((value as Fields)[key], given, made));
  if (!parts.every(part => part !== undefined)) return undefined;
  // All results share it from now on.
  if (parts.every(part => part.kind === 'constant')) return { kind: 'constant', value: Object.freeze(value) };
  return { kind: 'record', prototype, keys, parts };
}

function repeat({ program, made, result }: Replay, given: Given): unknown {
  const handles = made.map(takeHandle);
  try {
    native.run(program, ...given.handles, ...handles);
  } catch (error) {
    for (const handle of handles) retireHandle(handle);
    rethrow(error);
  }
  return makeResult(
    result,
    given,
    handles.map((handle, i) => adopt(handle, made[i]!)),
  );
}

function makeResult(template: Template, given: Given, made: readonly Tensor[]): unknown {
  switch (template.kind) {
    case 'constant':
      return template.value;
    case 'tensor':
      return given.tensors[template.at];
    case 'made':
      return made[template.at];
    case 'object':
      return given.objects[template.at];
    case 'record':
      return makeRecord(template, given, made);
  }
}

function makeRecord(
  { prototype, keys, parts }: Template & { kind: 'record' },
  given: Given,
  made: readonly Tensor[],
): Fields {
  const fields: Fields = prototype === Object.prototype ? {} : Object.create(prototype);
  for (let i = 0; i < keys.length; i++) fields[keys[i]!] = makeResult(parts[i]!, given, made);
  return fields;
}
