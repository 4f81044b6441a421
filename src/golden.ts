// Golden cases: a small layer in a safetensors file, its configuration in `__metadata__.case`, with the output, routing
// and gradients that another implementation computed. What this package cannot run is refused by name, never guessed.

import { ACTIVATIONS, type Activation } from './activation.ts';
import { describe } from './dtype.ts';
import { badArgument, type ErrorCode, MoeError } from './errors.ts';
import { parameterShapes } from './layer.ts';
import { type RouterOptions, resolveRouter, SCORES, SOFTMAX_OVER } from './router.ts';
import { type SafetensorsArray, SafetensorsFile } from './safetensors.ts';
import { parseStrictJson } from './strict-json.ts';

export interface GoldenConfig {
  readonly hidden: number;
  readonly intermediate: number;
  readonly experts: number;
  readonly topK: number;
  readonly activation: Activation;
  readonly bias: boolean;
  readonly router: Omit<RouterOptions, 'topK'> & { readonly bias: boolean };
}

export interface GoldenParameter {
  readonly values: Float32Array;
  readonly shape: readonly number[];
}

export interface GoldenCase {
  readonly path: string;
  readonly name: string;
  readonly tokens: number;
  readonly config: GoldenConfig;
  /** By published name, `router.weight` and so on. */
  readonly parameters: ReadonlyMap<string, GoldenParameter>;
  readonly x: Float32Array;
  readonly dy: Float32Array;
  readonly expected: {
    readonly y: Float32Array;
    readonly dx: Float32Array;
    /** [T, K], ascending by id in each row */
    readonly indices: Int32Array;
    readonly weights: Float32Array;
    /** By parameter name. */
    readonly gradients: ReadonlyMap<string, Float32Array>;
  };
}

/**
 * Reads one value of the configuration. A value of the wrong type throws a MoeError that names it; one that is valid in the
 * form but not here is added to `unsupported`.
 */
type Read<T> = (name: string, value: unknown, unsupported: string[]) => T;
type Table = Readonly<Record<string, Read<unknown>>>;
type Values<T extends Table> = { [K in keyof T]?: ReturnType<T[K]> };

const text: Read<string> = (name, value) => expectType(name, value, 'string') as string;
const flag: Read<boolean> = (name, value) => expectType(name, value, 'boolean') as boolean;
const number: Read<number> = (name, value) => expectType(name, value, 'number') as number;
const integer =
  (least: number): Read<number> =>
  (name, value) => {
    const size = expectType(name, value, 'number') as number;
    if (Number.isInteger(size) && size >= least && size < 2 ** 31) return size;
    throw badArgument('ERR_FILE', name, `an integer from ${least} to 2147483647`, describe(value));
  };
const record: Read<object> = (name, value) => {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw badArgument('ERR_FILE', name, 'an object', describe(value));
};

/** One of the values that are supported so far; others of the same type may be valid in the form. */
function supported<T extends string | number | boolean>(choices: readonly [T, ...T[]]): Read<T> {
  return (name, value, unsupported) => {
    expectType(name, value, typeof choices[0]);
    const found = choices.find(choice => choice === value);
    if (found === undefined) unsupported.push(`${name} ${describe(value)}`);
    return found ?? choices[0];
  };
}

function expectType(name: string, value: unknown, type: string): unknown {
  if (typeof value === type) return value;
  throw badArgument('ERR_FILE', name, `a ${type}`, describe(value));
}

/** What this package can run. A key of the form that is absent here is unsupported. */
const LAYER_KEYS = {
  name: text,
  source: text,
  tokens: integer(0),
  hidden: integer(1),
  intermediate: integer(1),
  experts: integer(1),
  topK: integer(1),
  identityExperts: supported([0]),
  router: record,
  activation: supported(ACTIVATIONS),
  applyWeightTo: supported(['output']),
  bias: flag,
} as const satisfies Table;

const ROUTER_KEYS = {
  score: supported(SCORES),
  softmaxOver: supported(SOFTMAX_OVER),
  normalize: flag,
  normalizeEps: number,
  normalizeMin: number,
  scale: number,
  bias: flag,
  selectionBias: supported([false]),
  expertScale: supported([false]),
} as const satisfies Table;

const CASE = 'case';

/**
 * Reads and checks a golden case.
 * @throws MoeError, each naming the file and what is wrong in it: ERR_UNSUPPORTED for a configuration that this package
 *   cannot run; ERR_FILE, ERR_SHAPE for a file that is not of the form; ERR_OUT_OF_MEMORY
 */
export async function readGolden(path: string): Promise<GoldenCase> {
  await using file = await SafetensorsFile.open(path);
  return await inFile(path, async () => {
    const { name, tokens, config } = parseCase(file.metadata.get(CASE));
    const parameters = parameterShapes(
      config,
      !file.tensors.has('experts.gate') && !file.tensors.has('experts.up'),
    );
    checkTensors(file, tensorShapes(tokens, config, parameters));
    return await readCase(file, { name: name ?? path, tokens, config }, parameters);
  });
}

/** Puts the file's name before the message of whatever goes wrong in it. */
async function inFile<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (!(error instanceof MoeError) || error.message.startsWith(`${path}: `)) throw error;
    const code: ErrorCode = error.code === 'ERR_INVALID_ARGUMENT' ? 'ERR_FILE' : error.code;
    throw new MoeError(code, `${path}: ${error.message}`, { cause: error });
  }
}

function parseCase(json: string | undefined): { name?: string; tokens: number; config: GoldenConfig } {
  if (json === undefined) throw badArgument('ERR_FILE', `__metadata__.${CASE}`, 'a configuration', 'none');
  const unsupported: string[] = [];
  const layer = readKeys(CASE, LAYER_KEYS, record(CASE, parseJson(json), unsupported), unsupported);
  const router = readKeys(`${CASE}.router`, ROUTER_KEYS, required(CASE, layer, 'router'), unsupported);
  if (router.normalizeEps !== undefined && router.normalizeMin !== undefined) {
    unsupported.push(`${CASE}.router.normalizeEps beside normalizeMin`);
  }
  if (unsupported.length > 0) {
    const got = unsupported.join(', ').slice(0, 400);
    throw badArgument('ERR_UNSUPPORTED', CASE, 'only what is supported', got);
  }
  const [experts, topK] = [required(CASE, layer, 'experts'), required(CASE, layer, 'topK')];
  const { bias = false, selectionBias: _, expertScale: __, ...options } = router;
  const score = required(`${CASE}.router`, router, 'score');
  if (score === 'softmax') required(`${CASE}.router`, router, 'softmaxOver');
  resolveRouter(`${CASE}.router`, { ...options, topK }, experts);
  return {
    name: layer.name,
    tokens: required(CASE, layer, 'tokens'),
    config: {
      hidden: required(CASE, layer, 'hidden'),
      intermediate: required(CASE, layer, 'intermediate'),
      experts,
      topK,
      activation: required(CASE, layer, 'activation'),
      bias: layer.bias ?? false,
      router: { ...options, bias },
    },
  };
}

function parseJson(json: string): unknown {
  try {
    return parseStrictJson(json);
  } catch (cause) {
    const reason = (cause as SyntaxError).message;
    throw new MoeError('ERR_FILE', `__metadata__.${CASE}: expected JSON, got ${reason}`, { cause });
  }
}

function readKeys<T extends Table>(name: string, table: T, given: object, unsupported: string[]): Values<T> {
  const values: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    const path = `${name}.${/^\w+$/.test(key) ? key : describe(key)}`;
    if (Object.hasOwn(table, key)) values[key] = table[key]!(path, value, unsupported);
    else unsupported.push(path);
  }
  return values as Values<T>;
}

function required<V, K extends keyof V & string>(name: string, values: V, key: K): NonNullable<V[K]> {
  const value = values[key];
  if (value !== undefined && value !== null) return value;
  throw badArgument('ERR_FILE', `${name}.${key}`, 'a value', 'none');
}

const INDEX = 'topk.index';

function tensorShapes(
  tokens: number,
  { hidden, topK }: GoldenConfig,
  parameters: Readonly<Record<string, number[]>>,
): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const name of ['x', 'y', 'dy', 'dx']) shapes.set(name, [tokens, hidden]);
  for (const name of [INDEX, 'topk.weight']) shapes.set(name, [tokens, topK]);
  for (const [name, shape] of Object.entries(parameters)) shapes.set(name, shape).set(`d.${name}`, shape);
  return shapes;
}

/** Exactly the tensors of this configuration: one too many would be a part of the layer that is silently left out. */
function checkTensors({ tensors }: SafetensorsFile, shapes: ReadonlyMap<string, readonly number[]>): void {
  for (const [name, shape] of shapes) {
    const entry = tensors.get(name);
    const dtype = name === INDEX ? 'I32' : 'F32';
    if (entry === undefined) {
      throw badArgument('ERR_FILE', name, `an ${dtype} tensor [${shape.join(', ')}]`, 'none');
    }
    if (entry.dtype !== dtype) throw badArgument('ERR_FILE', name, `dtype ${dtype}`, entry.dtype);
    if (entry.shape.join() !== shape.join()) {
      throw badArgument('ERR_SHAPE', name, `shape [${shape.join(', ')}]`, describe(entry.shape));
    }
  }
  for (const name of tensors.keys()) {
    if (!shapes.has(name)) {
      throw badArgument('ERR_FILE', 'tensors', 'only those of the configuration', describe(name));
    }
  }
}

async function readCase(
  file: SafetensorsFile,
  { name, tokens, config }: { name: string; tokens: number; config: GoldenConfig },
  shapes: Readonly<Record<string, number[]>>,
): Promise<GoldenCase> {
  const read = async (name: string) => (await file.read(name)) as SafetensorsArray<'F32'>;
  const parameters = new Map<string, GoldenParameter>();
  const gradients = new Map<string, Float32Array>();
  for (const [name, shape] of Object.entries(shapes)) {
    parameters.set(name, { values: await read(name), shape });
    gradients.set(name, await read(`d.${name}`));
  }
  const indices = (await file.read(INDEX)) as Int32Array;
  checkIndices(indices, config);
  const [x, y, dy, dx] = [await read('x'), await read('y'), await read('dy'), await read('dx')];
  const expected = { y, dx, indices, weights: await read('topk.weight'), gradients };
  return { path: file.path, name, tokens, config, parameters, x, dy, expected };
}

function checkIndices(indices: Int32Array, { experts, topK }: GoldenConfig): void {
  for (let slot = 0; slot < indices.length; slot++) {
    const least = slot % topK === 0 ? 0 : indices[slot - 1]! + 1;
    if (indices[slot]! < least || indices[slot]! >= experts) {
      const row = Math.floor(slot / topK);
      const expected = `ascending expert ids below ${experts}`;
      const got = describe([...indices.subarray(row * topK, (row + 1) * topK)]);
      throw badArgument('ERR_FILE', `${INDEX}[${row}]`, expected, got);
    }
  }
}
