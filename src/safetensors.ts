// Strict reader of safetensors files: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// The whole header is checked when the file is opened; tensors are read one at a time, by range, so that a file may be
// far larger than memory. Format: https://github.com/huggingface/safetensors#format

import { type FileHandle, open, stat } from 'node:fs/promises';
import { describe } from './dtype.ts';
import { badArgument, MoeError } from './errors.ts';
import { parseStrictJson } from './strict-json.ts';

/** What the format's dtypes are read into: 16-bit floats as their bits, bytes and 8-bit floats as bytes. */
const ARRAYS = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  F8_E4M3: Uint8Array,
  F8_E5M2: Uint8Array,
  F8_E8M0: Uint8Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U64: BigUint64Array,
  U32: Uint32Array,
  U16: Uint16Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

export type SafetensorsDType = keyof typeof ARRAYS;
export type SafetensorsArray<D extends SafetensorsDType = SafetensorsDType> = InstanceType<
  (typeof ARRAYS)[D]
>;

/** A TypedArray, of whatever memory. */
interface ElementsView extends ArrayBufferView {
  readonly BYTES_PER_ELEMENT: number;
}

/** Where and what a tensor is; `begin` and `end` are bytes from the start of the data section. */
export interface SafetensorsEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
}

/** The reference implementation's own limit. */
const MAX_HEADER_BYTES = 100_000_000;
const LENGTH_BYTES = 8;
const METADATA_KEY = '__metadata__';
/** A single read call may not ask for 2 GiB. */
const MAX_READ_BYTES = 2 ** 30;

/** An open safetensors file whose header has been checked: every byte of its data belongs to exactly one tensor. */
export class SafetensorsFile implements AsyncDisposable {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  readonly #handle: FileHandle;
  readonly #dataStart: number;

  private constructor(path: string, handle: FileHandle, header: Header, dataStart: number) {
    this.path = path;
    this.metadata = header.metadata;
    this.tensors = header.tensors;
    this.#handle = handle;
    this.#dataStart = dataStart;
  }

  /** @throws MoeError ERR_FILE, naming the file and what is wrong with it */
  static async open(path: string): Promise<SafetensorsFile> {
    const handle = await openRegularFile(path);
    try {
      const { size } = await handle.stat();
      if (size < LENGTH_BYTES) throw fileError(path, 'file', 'an 8-byte header length', `${size} bytes`);
      const length = new BigUint64Array(1);
      await readExactly(path, handle, length, 0);
      const headerBytes = checkHeaderLength(path, new DataView(length.buffer).getBigUint64(0, true), size);
      const text = new Uint8Array(headerBytes);
      await readExactly(path, handle, text, LENGTH_BYTES);
      const dataStart = LENGTH_BYTES + headerBytes;
      return new SafetensorsFile(path, handle, parseHeader(path, text, size - dataStart), dataStart);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /**
   * The elements of one tensor, row-major; F16 and BF16 come as their bits.
   * @throws MoeError ERR_FILE without such a tensor or if the file shrank, ERR_OUT_OF_MEMORY
   */
  async read(name: string): Promise<SafetensorsArray> {
    const entry = this.#entry(name);
    const array = allocate(`${this.path}: ${name}`, entry);
    await readExactly(this.path, this.#handle, array, this.#dataStart + entry.begin);
    return array;
  }

  /**
   * Fills `into` with elements of one tensor, as they are stored, from element `start` on: a part of a tensor need not
   * pass through an array of its size.
   * @param into elements of the size of the tensor's
   * @throws MoeError ERR_FILE without such a tensor, if it ends before `into` does, or if the file shrank
   */
  async readInto(name: string, into: ElementsView, start = 0): Promise<void> {
    const { begin, end } = this.#entry(name);
    const offset = start * into.BYTES_PER_ELEMENT;
    if (offset + into.byteLength > end - begin) {
      const got = `${into.byteLength} bytes at ${offset}`;
      throw fileError(this.path, name, `a range within ${end - begin} bytes`, got);
    }
    await readExactly(this.path, this.#handle, into, this.#dataStart + begin + offset);
  }

  #entry(name: string): SafetensorsEntry {
    const entry = this.tensors.get(name);
    if (entry === undefined) throw fileError(this.path, name, 'a tensor of this name', 'none');
    return entry;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

async function openRegularFile(path: string): Promise<FileHandle> {
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new MoeError('ERR_FILE', `${path}: expected a regular file, got another kind`);
    return await open(path);
  } catch (error) {
    if (error instanceof MoeError) throw error;
    const { code = 'an error' } = error as NodeJS.ErrnoException;
    throw new MoeError('ERR_FILE', `${path}: expected a readable file, got ${code}`, { cause: error });
  }
}

/** Fills an array, in parts, for neither a read nor a byte array may be as long as a tensor. */
async function readExactly(
  path: string,
  handle: FileHandle,
  into: ArrayBufferView,
  position: number,
): Promise<void> {
  for (let done = 0; done < into.byteLength; ) {
    const bytes = Math.min(into.byteLength - done, MAX_READ_BYTES);
    const part = new Uint8Array(into.buffer, into.byteOffset + done, bytes);
    const { bytesRead } = await handle.read(part, 0, part.length, position + done);
    if (bytesRead === 0) throw fileError(path, 'file', `${into.byteLength} bytes at ${position}`, `${done}`);
    done += bytesRead;
  }
}

function allocate(name: string, { dtype, begin, end }: SafetensorsEntry): SafetensorsArray {
  const bytes = end - begin;
  try {
    return new ARRAYS[dtype](bytes / ARRAYS[dtype].BYTES_PER_ELEMENT);
  } catch (cause) {
    throw new MoeError('ERR_OUT_OF_MEMORY', `${name}: ${bytes} bytes could not be allocated`, { cause });
  }
}

function checkHeaderLength(path: string, length: bigint, fileBytes: number): number {
  const most = Math.min(MAX_HEADER_BYTES, fileBytes - LENGTH_BYTES);
  if (length < 2n || length > BigInt(most)) {
    throw fileError(path, 'header length', `2 to ${most} bytes`, String(length));
  }
  return Number(length);
}

function parseHeader(path: string, bytes: Uint8Array, dataBytes: number): Header {
  const header = checkObject(path, 'header', parseHeaderText(path, bytes));
  const tensors = new Map<string, SafetensorsEntry>();
  for (const [name, value] of Object.entries(header)) {
    if (name !== METADATA_KEY) tensors.set(name, parseEntry(path, printable(name), value));
  }
  checkCoverage(path, tensors, dataBytes);
  return { metadata: parseMetadata(path, header[METADATA_KEY] ?? {}), tensors };
}

function parseHeaderText(path: string, bytes: Uint8Array): unknown {
  try {
    return parseStrictJson(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    const reason = cause instanceof SyntaxError ? cause.message : 'bytes that are not UTF-8';
    throw new MoeError('ERR_FILE', `${path}: header: expected JSON in UTF-8, got ${reason}`, { cause });
  }
}

function parseMetadata(path: string, value: unknown): Map<string, string> {
  const entries = Object.entries(checkObject(path, METADATA_KEY, value));
  for (const [key, text] of entries) {
    if (typeof text !== 'string') {
      throw fileError(path, `${METADATA_KEY}.${printable(key)}`, 'a string', describe(text));
    }
  }
  return new Map(entries as [string, string][]);
}

function parseEntry(path: string, name: string, value: unknown): SafetensorsEntry {
  const entry = checkObject(path, name, value);
  const keys = Object.keys(entry).sort().join(', ');
  if (keys !== 'data_offsets, dtype, shape') {
    throw fileError(path, name, 'the keys data_offsets, dtype, shape', printable(keys));
  }
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(ARRAYS, dtype)) {
    throw fileError(path, `${name}.dtype`, `one of ${Object.keys(ARRAYS).join(', ')}`, describe(dtype));
  }
  if (!isSizes(shape)) throw fileError(path, `${name}.shape`, 'an array of sizes', describe(shape));
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw fileError(path, `${name}.data_offsets`, 'two byte offsets', describe(offsets));
  }
  const [begin, end] = offsets as [number, number];
  const bytes = byteLength(shape, ARRAYS[dtype as SafetensorsDType].BYTES_PER_ELEMENT);
  if (end - begin !== bytes) {
    const expected = `${bytes} bytes for ${dtype} ${describe(shape)}`;
    throw fileError(path, `${name}.data_offsets`, expected, `${end - begin} (${describe(offsets)})`);
  }
  return { dtype: dtype as SafetensorsDType, shape, begin, end };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(size => Number.isSafeInteger(size) && size >= 0);
}

/** Infinity once the product is no longer exact, unless a later dimension is 0. */
function byteLength(shape: readonly number[], elementBytes: number): number {
  if (shape.includes(0)) return 0;
  const bytes = shape.reduce((product, size) => product * size, elementBytes);
  return Number.isSafeInteger(bytes) ? bytes : Infinity;
}

/** Tensors lie end to end: an overlap or a hole could smuggle in, or hide, data. */
function checkCoverage(
  path: string,
  tensors: ReadonlyMap<string, SafetensorsEntry>,
  dataBytes: number,
): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const [name, { begin, end }] of inOrder) {
    if (begin !== covered) {
      const got = `${begin}, ${begin < covered ? 'an overlap' : 'a hole'}`;
      throw fileError(path, `${printable(name)}.data_offsets`, `a start at ${covered}`, got);
    }
    covered = end;
  }
  if (covered === dataBytes) return;
  throw fileError(path, 'data', `${covered} bytes after the header`, `${dataBytes}`);
}

function checkObject(path: string, name: string, value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw fileError(path, name, 'an object', describe(value));
  }
  return value as Record<string, unknown>;
}

/** A name from the file as it may be printed: of bearable length and without control characters. */
export function printable(name: string): string {
  const escaped = JSON.stringify(name).slice(1, -1);
  return escaped.length > 80 ? `${escaped.slice(0, 80)}…` : escaped;
}

export function fileError(path: string, what: string, expected: string, got: string): MoeError {
  return badArgument('ERR_FILE', `${path}: ${what}`, expected, got);
}
