// Golden cases: a small layer in a safetensors file, its configuration in `__metadata__.case`, with the output, routing
// and gradients that another implementation computed. What this package cannot run is refused by name, never guessed.

import { ACTIVATIONS } from './activation.ts';
import { describe } from './dtype.ts';
import { badArgument, type ErrorCode, MoeError } from './errors.ts';
import { type MoELayerConfig, parameterShapes, resolveConfig } from './layer-config.ts';
import { GROUP_SCORES, SCORES, SOFTMAX_OVER } from './router.ts';
import { DROP_POLICIES } from './router-capacity.ts';
import { type SafetensorsArray, SafetensorsFile } from './safetensors.ts';
import { parseStrictJson } from './strict-json.ts';

/** The layer of a case, ready to be constructed. */
export type GoldenConfig = Omit<MoELayerConfig, 'dtype' | 'device'> &
  Required<Pick<MoELayerConfig, 'topK' | 'router' | 'activation' | 'bias' | 'identityExperts'>>;

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
    /** By name of the parameter; the selection bias has none. */
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
function supported<const T extends string | number | boolean>(choices: readonly [T, ...T[]]): Read<T> {
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

/** JSON has no infinities. */
const maskValue: Read<number> = (name, value) => {
  if (value === 0) return 0;
  if (value === '-inf') return Number.NEGATIVE_INFINITY;
  throw badArgument('ERR_FILE', name, '0 or "-inf"', describe(value));
};

/** An object of its own keys. */
function nested<T extends Table>(table: T): Read<Values<T>> {
  return (name, value, unsupported) => readKeys(name, table, record(name, value, unsupported), unsupported);
}

/** What this package can run. A key of the form that is absent here is unsupported. */
const ROUTER_KEYS = {
  score: supported(SCORES),
  softmaxOver: supported(SOFTMAX_OVER),
  jitterEps: number,
  groups: nested({ count: integer(1), top: integer(1), score: supported(GROUP_SCORES), maskValue }),
  normalize: flag,
  normalizeEps: number,
  normalizeMin: number,
  scale: number,
  bias: flag,
  selectionBias: flag,
  expertScale: flag,
  capacity: nested({ tokensPerExpert: integer(1), dropPolicy: supported(DROP_POLICIES) }),
} as const satisfies Table;

const LAYER_KEYS = {
  name: text,
  source: text,
  tokens: integer(0),
  hidden: integer(1),
  intermediate: integer(1),
  experts: integer(1),
  identityExperts: integer(0),
  topK: integer(1),
  router: nested(ROUTER_KEYS),
  activation: supported(ACTIVATIONS),
  activationLimit: number,
  activationAlpha: number,
  activationUpShift: number,
  applyWeightTo: supported(['output', 'input']),
  bias: flag,
  shared: nested({ intermediate: integer(1), gate: supported(['sigmoid']) }),
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
  const layer = nested(LAYER_KEYS)(CASE, parseJson(json), unsupported);
  if (layer.router?.normalizeEps !== undefined && layer.router.normalizeMin !== undefined) {
    unsupported.push(`${CASE}.router.normalizeEps beside normalizeMin`);
  }
  if (unsupported.length > 0) {
    const got = unsupported.join(', ').slice(0, 400);
    throw badArgument('ERR_UNSUPPORTED', CASE, 'only what is supported', got);
  }
  const { name, source, tokens, identityExperts = 0, bias = false, ...rest } = complete(layer);
  const config: GoldenConfig = { ...rest, identityExperts, bias };
  resolveConfig(config, CASE);
  return { name, tokens, config };
}

/** Everything that the form gives no default: what a case leaves out is not guessed. */
function complete(layer: Values<typeof LAYER_KEYS>) {
  const keys = ['tokens', 'hidden', 'intermediate', 'experts', 'topK', 'router', 'activation'] as const;
  const given = requireKeys(CASE, layer, keys);
  const router = requireKeys(`${CASE}.router`, given.router, ['score']);
  const { groups, capacity } = router;
  if (router.score === 'softmax') requireKeys(`${CASE}.router`, router, ['softmaxOver']);
  if (router.score === 'sparsemixer') requireKeys(`${CASE}.router`, router, ['jitterEps']);
  if (given.activation === 'swiglu_clamped') {
    requireKeys(CASE, layer, ['activationLimit', 'activationAlpha', 'activationUpShift']);
  }
  return {
    ...given,
    shared: layer.shared && requireKeys(`${CASE}.shared`, layer.shared, ['intermediate']),
    router: {
      ...router,
      groups: groups && requireKeys(`${CASE}.router.groups`, groups, ['count', 'top', 'score', 'maskValue']),
      capacity:
        capacity && requireKeys(`${CASE}.router.capacity`, capacity, ['tokensPerExpert', 'dropPolicy']),
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

/** The values, of which those of `keys` must be there. */
function requireKeys<V extends object, K extends keyof V & string>(
  name: string,
  values: V,
  keys: readonly K[],
): V & { [key in K]-?: NonNullable<V[key]> } {
  for (const key of keys) {
    if (values[key] === undefined) throw badArgument('ERR_FILE', `${name}.${key}`, 'a value', 'none');
  }
  return values as V & { [key in K]-?: NonNullable<V[key]> };
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
  for (const [name, shape] of Object.entries(parameters)) {
    shapes.set(name, shape);
    if (hasGradient(name)) shapes.set(`d.${name}`, shape);
  }
  return shapes;
}

/** The selection bias only chooses. */
function hasGradient(parameter: string): boolean {
  return parameter !== 'router.selection_bias';
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
    if (hasGradient(name)) gradients.set(name, await read(`d.${name}`));
  }
  const indices = (await file.read(INDEX)) as Int32Array;
  checkIndices(indices, config);
  const [x, y, dy, dx] = [await read('x'), await read('y'), await read('dy'), await read('dx')];
  const expected = { y, dx, indices, weights: await read('topk.weight'), gradients };
  return { path: file.path, name, tokens, config, parameters, x, dy, expected };
}

function checkIndices(indices: Int32Array, { experts, identityExperts, topK }: GoldenConfig): void {
  const ids = experts + identityExperts;
  for (let slot = 0; slot < indices.length; slot++) {
    const least = slot % topK === 0 ? 0 : indices[slot - 1]! + 1;
    if (indices[slot]! < least || indices[slot]! >= ids) {
      const row = Math.floor(slot / topK);
      const expected = `ascending expert ids below ${ids}`;
      const got = describe([...indices.subarray(row * topK, (row + 1) * topK)]);
      throw badArgument('ERR_FILE', `${INDEX}[${row}]`, expected, got);
    }
  }
}
