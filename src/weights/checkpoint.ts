// A checkpoint as it lies on disk: one safetensors file, several, or the shards that an index names. Tensors are found by
// name; a shard is opened when the first of its tensors is asked for.

import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describe } from '../dtype.ts';
import { badArgument, MoeError } from '../errors.ts';
import { fileError, printable, type SafetensorsEntry, SafetensorsFile } from '../safetensors.ts';
import { parseStrictJson } from '../strict-json.ts';

export interface StoredTensor {
  readonly name: string;
  readonly file: SafetensorsFile;
  readonly entry: SafetensorsEntry;
}

export class Checkpoint implements AsyncDisposable {
  /** What the caller named: what an error names where no single file is at fault. */
  readonly path: string;
  /** Path of the file that holds a tensor, by the tensor's name. */
  readonly #places: Map<string, string>;
  readonly #files = new Map<string, SafetensorsFile>();

  private constructor(path: string, places: Map<string, string>) {
    this.path = path;
    this.#places = places;
  }

  /**
   * @param files a safetensors file, several of them, or an index (`model.safetensors.index.json`) beside its shards
   * @throws MoeError ERR_INVALID_ARGUMENT, ERR_FILE
   */
  static async open(files: string | readonly string[]): Promise<Checkpoint> {
    const paths = checkPaths(files);
    const [first] = paths as [string];
    if (paths.length === 1 && first.endsWith('.json')) {
      return new Checkpoint(first, await readIndex(first));
    }
    const checkpoint = new Checkpoint(first, new Map());
    try {
      await checkpoint.#openAll(paths);
      return checkpoint;
    } catch (error) {
      await checkpoint.close();
      throw error;
    }
  }

  has(name: string): boolean {
    return this.#places.has(name);
  }

  /** @throws MoeError ERR_FILE without such a tensor, or for a shard that is missing, broken or not what the index says */
  async find(name: string): Promise<StoredTensor> {
    const path = this.#places.get(name);
    if (path === undefined) throw fileError(this.path, name, 'a tensor of this name', 'none');
    const file = this.#files.get(path) ?? (await SafetensorsFile.open(path));
    this.#files.set(path, file);
    const entry = file.tensors.get(name);
    if (entry === undefined)
      throw fileError(path, name, `a tensor of this name, as ${this.path} says`, 'none');
    return { name, file, entry };
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #openAll(paths: readonly string[]): Promise<void> {
    for (const path of paths) {
      const file = await SafetensorsFile.open(path);
      this.#files.set(path, file);
      for (const name of file.tensors.keys()) {
        const other = this.#places.get(name);
        if (other !== undefined)
          throw fileError(path, printable(name), 'a tensor of one file', `one of ${other} too`);
        this.#places.set(name, path);
      }
    }
  }
}

function checkPaths(files: unknown): readonly string[] {
  const paths: unknown[] = Array.isArray(files) ? files : [files];
  if (paths.length === 0 || !paths.every(path => typeof path === 'string')) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'files', 'a path or several', describe(files));
  }
  if (paths.length > 1 && paths.some(path => path.endsWith('.json'))) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'files', 'an index alone or safetensors files', 'both');
  }
  if (new Set(paths).size < paths.length) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'files', 'each path once', describe(files));
  }
  return paths;
}

/** Tensor name → path of its shard, which lies beside the index. */
async function readIndex(path: string): Promise<Map<string, string>> {
  const index = parseIndex(path, await readText(path));
  if (!isRecord(index)) throw fileError(path, 'index', 'an object', describe(index));
  const { weight_map: weightMap } = index;
  if (!isRecord(weightMap)) throw fileError(path, 'weight_map', 'an object', describe(weightMap));
  const places = new Map<string, string>();
  for (const [name, shard] of Object.entries(weightMap)) {
    if (typeof shard !== 'string' || shard === '' || basename(shard) !== shard || shard.startsWith('.')) {
      throw fileError(
        path,
        `weight_map.${printable(name)}`,
        'the name of a file beside the index',
        describe(shard),
      );
    }
    places.set(name, join(dirname(path), shard));
  }
  return places;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const { code = 'an error' } = cause as NodeJS.ErrnoException;
    throw new MoeError('ERR_FILE', `${path}: expected a readable file, got ${code}`, { cause });
  }
}

function parseIndex(path: string, text: string): unknown {
  try {
    return parseStrictJson(text);
  } catch (cause) {
    const reason = (cause as SyntaxError).message;
    throw new MoeError('ERR_FILE', `${path}: index: expected JSON, got ${reason}`, { cause });
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
