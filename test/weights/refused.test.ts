// What the loader refuses: each error names the file, the tensor, what was expected and what came.

import { describe, expect, test } from 'vitest';
import { type LoadExpertsOptions, loadExperts, MoeError, memory, type Preset } from '../../src/index.ts';
import { type FileTensors, safetensors, temporaryFiles } from '../cli/support/safetensors.ts';
import { shrunk } from '../support/shrunk.ts';
import { PUBLISHED, type PublishedName, randomParameters, stored } from './support/published.ts';

const { folder, write } = temporaryFiles();

const mixtral = shrunk('mixtral8x7b');
const OPTIONS: LoadExpertsOptions = { layer: 0 };
const SPARSE = 'model.layers.0.block_sparse_moe';
const DOWN = `${SPARSE}.experts.3.w2.weight`;
const EXPERTS = 'model.layers.0.mlp.experts';
const SHARED = 'model.layers.0.mlp.shared_expert.up_proj.weight';

function published(name: PublishedName): FileTensors {
  return stored(PUBLISHED[name](randomParameters(shrunk(name), 1), 0), 'float32');
}

function zeros(shape: number[], dtype = 'F32', bytes = 4): FileTensors[string] {
  return { dtype, shape, data: new Uint8Array(bytes * shape.reduce((a, b) => a * b, 1)) };
}

function without(tensors: FileTensors, ...names: string[]): FileTensors {
  return Object.fromEntries(Object.entries(tensors).filter(([name]) => !names.includes(name)));
}

async function failure(call: Promise<unknown>): Promise<MoeError> {
  try {
    await call;
  } catch (error) {
    expect(error).toBeInstanceOf(MoeError);
    return error as MoeError;
  }
  return expect.fail('nothing was thrown');
}

/** Title, tensors, configuration, code, and the sentence after the file's name. */
const FILES: [string, FileTensors, Preset, string, string][] = [
  [
    'no router of any model',
    without(published('mixtral8x7b'), `${SPARSE}.gate.weight`),
    mixtral,
    'ERR_FILE',
    'layer 0: expected a router named as in mixtral, deepseekQwen, ',
  ],
  [
    'a missing expert',
    without(published('mixtral8x7b'), DOWN),
    mixtral,
    'ERR_FILE',
    `${DOWN}: expected a tensor of this name, got none`,
  ],
  [
    'a transposed expert',
    { ...published('mixtral8x7b'), [DOWN]: zeros([10, 24]) },
    mixtral,
    'ERR_FILE',
    `${DOWN}: expected shape [24, 10], got [10, 24]`,
  ],
  [
    'an expert of another width',
    published('mixtral8x7b'),
    shrunk('mixtral8x7b', { intermediate: 12 }),
    'ERR_FILE',
    `${SPARSE}.experts.0.w1.weight: expected shape [12, 24], got [10, 24]`,
  ],
  [
    'a stack of too few experts',
    published('llama4Scout'),
    shrunk('llama4Scout', { experts: 9 }),
    'ERR_FILE',
    'language_model.model.layers.0.feed_forward.router.weight: expected shape [9, 24], got [8, 24]',
  ],
  [
    'an expert of another dtype',
    { ...published('mixtral8x7b'), [DOWN]: zeros([24, 10], 'F8_E5M2', 1) },
    mixtral,
    'ERR_FILE',
    `${DOWN}: expected dtype F32, F16, BF16, got F8_E5M2`,
  ],
  [
    'an expert too many',
    { ...published('mixtral8x7b'), [`${SPARSE}.experts.8.w2.weight`]: zeros([24, 10]) },
    mixtral,
    'ERR_FILE',
    `${SPARSE}.experts.8.w2.weight: expected 8 experts, got a tensor of this name`,
  ],
  [
    'a shared expert that the configuration lacks',
    { ...published('olmoe'), [SHARED]: zeros([14, 24]) },
    shrunk('olmoe'),
    'ERR_FILE',
    `${SHARED}: expected none, for the configuration has no shared.up, got a tensor of this name`,
  ],
  [
    'a shared expert that the file lacks',
    published('olmoe'),
    shrunk('deepseekMoe16b'),
    'ERR_FILE',
    'model.layers.0.mlp.shared_experts.gate_proj.weight: expected a tensor of this name, got none',
  ],
];

const MIXTRAL_FP8: FileTensors = { ...published('mixtral8x7b'), [DOWN]: zeros([24, 10], 'F8_E4M3', 1) };
const SCALES = `${DOWN}_scale_inv`;
const GPT_OSS = without(published('gptOss20b'), `${EXPERTS}.gate_up_proj`, `${EXPERTS}.down_proj`);
const multiples = shrunk('gptOss20b', { hidden: 32, intermediate: 64, experts: 2, topK: 1 });
const MXFP4 = mxfp4File(multiples);

/** A checkpoint in MXFP4 whose numbers are all zero. */
function mxfp4File({ hidden, intermediate, experts }: Preset): FileTensors {
  const layer = 'model.layers.0.mlp';
  return {
    [`${layer}.router.weight`]: zeros([experts, hidden]),
    [`${layer}.router.bias`]: zeros([experts]),
    [`${EXPERTS}.gate_up_proj_blocks`]: zeros([experts, 2 * intermediate, hidden / 32, 16], 'U8', 1),
    [`${EXPERTS}.gate_up_proj_scales`]: zeros([experts, 2 * intermediate, hidden / 32], 'U8', 1),
    [`${EXPERTS}.gate_up_proj_bias`]: zeros([experts, 2 * intermediate]),
    [`${EXPERTS}.down_proj_blocks`]: zeros([experts, hidden, Math.floor(intermediate / 32), 16], 'U8', 1),
    [`${EXPERTS}.down_proj_scales`]: zeros([experts, hidden, Math.floor(intermediate / 32)], 'U8', 1),
    [`${EXPERTS}.down_proj_bias`]: zeros([experts, hidden]),
  };
}

/** As {@link FILES}. */
const QUANTISED: typeof FILES = [
  [
    'float8 without scales',
    MIXTRAL_FP8,
    mixtral,
    'ERR_FILE',
    `${SCALES}: expected a tensor of this name, got none`,
  ],
  [
    'float8 with scales of another block size',
    { ...MIXTRAL_FP8, [SCALES]: zeros([2, 1]) },
    mixtral,
    'ERR_FILE',
    `${SCALES}: expected shape [1, 1], got [2, 1]`,
  ],
  [
    'float8 with scales that are no floats',
    { ...MIXTRAL_FP8, [SCALES]: zeros([1, 1], 'U8', 1) },
    mixtral,
    'ERR_FILE',
    `${SCALES}: expected dtype F32, F16, BF16, got U8`,
  ],
  [
    'scales beside float32',
    { ...published('mixtral8x7b'), [SCALES]: zeros([1, 1]) },
    mixtral,
    'ERR_FILE',
    `${DOWN}: expected dtype F8_E4M3, for there is ${SCALES}, got F32`,
  ],
  [
    'float8 for every expert in one tensor',
    {
      ...published('llama4Scout'),
      'language_model.model.layers.0.feed_forward.experts.down_proj': zeros([8, 10, 24], 'F8_E4M3', 1),
    },
    shrunk('llama4Scout'),
    'ERR_FILE',
    'language_model.model.layers.0.feed_forward.experts.down_proj: expected dtype F32, F16, BF16, got F8_E4M3',
  ],
  [
    'GPTQ',
    { ...without(published('mixtral8x7b'), DOWN), [DOWN.replace('weight', 'qweight')]: zeros([3, 10]) },
    mixtral,
    'ERR_UNSUPPORTED',
    `${DOWN}: expected float32, float16 or bfloat16, got GPTQ or AWQ (${DOWN.replace('weight', 'qweight')})`,
  ],
  [
    'packed by compressed-tensors',
    { ...without(published('mixtral8x7b'), DOWN), [`${DOWN}_packed`]: zeros([24, 2]) },
    mixtral,
    'ERR_UNSUPPORTED',
    `${DOWN}: expected float32, float16 or bfloat16, got compressed-tensors (${DOWN}_packed)`,
  ],
  [
    'gpt-oss with no experts at all',
    GPT_OSS,
    shrunk('gptOss20b'),
    'ERR_FILE',
    'layer 0: expected experts named as in gptOss, gptOssMxfp4, got none',
  ],
  [
    'MXFP4 of rows that are no whole groups',
    mxfp4File({ ...multiples, intermediate: 48 }),
    shrunk('gptOss20b', { hidden: 32, intermediate: 48, experts: 2, topK: 1 }),
    'ERR_FILE',
    `${EXPERTS}.down_proj_blocks: expected a multiple of 32 columns, got 48`,
  ],
  [
    'MXFP4 without scales',
    without(MXFP4, `${EXPERTS}.down_proj_scales`),
    multiples,
    'ERR_FILE',
    `${EXPERTS}.down_proj_scales: expected a tensor of this name, got none`,
  ],
  [
    'MXFP4 of another shape',
    { ...MXFP4, [`${EXPERTS}.down_proj_blocks`]: zeros([2, 32, 1, 16], 'U8', 1) },
    multiples,
    'ERR_FILE',
    `${EXPERTS}.down_proj_blocks: expected shape [2, 32, 2, 16], got [2, 32, 1, 16]`,
  ],
  [
    'MXFP4 with scales of another dtype',
    { ...MXFP4, [`${EXPERTS}.down_proj_scales`]: zeros([2, 32, 2]) },
    multiples,
    'ERR_FILE',
    `${EXPERTS}.down_proj_scales: expected dtype U8, as MXFP4 is stored, got F32`,
  ],
];

describe('files', () => {
  test.each([...FILES, ...QUANTISED])('%s', async (title, tensors, config, code, sentence) => {
    const path = write(`${title}.safetensors`, safetensors(tensors));
    const before = memory().tensors;
    const error = await failure(loadExperts(path, config, OPTIONS));
    expect(error.code).toBe(code);
    expect(error.message).toContain(`${path}: ${sentence}`);
    expect(memory().tensors).toBe(before);
  });

  test('a selection bias that is NaN, once it is read', async () => {
    const name = 'model.layers.0.mlp.gate.e_score_correction_bias';
    const file = published('deepseekV3');
    file[name] = {
      ...file[name]!,
      data: Float32Array.from({ length: 8 }, (_, e) => (e === 5 ? Number.NaN : 0)),
    };
    const path = write('nan.safetensors', safetensors(file));
    const before = memory().tensors;
    expect(await failure(loadExperts(path, shrunk('deepseekV3'), OPTIONS))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: 'weights.router.selection_bias: expected numbers, got NaN at 5',
    });
    expect(memory().tensors).toBe(before);
  });

  test('MXFP4 where bfloat16 was named', async () => {
    const path = write('not-bfloat16.safetensors', safetensors(MXFP4));
    const error = await failure(loadExperts(path, multiples, { layer: 0, naming: 'gptOss' }));
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.message).toContain(`got MXFP4 (${EXPERTS}.gate_up_proj_blocks)`);
  });

  test('gpt-oss in both of its forms, unless one is named', async () => {
    const config = { ...multiples, dtype: 'float32' } as const;
    const half = {
      [`${EXPERTS}.gate_up_proj`]: zeros([2, 32, 128]),
      [`${EXPERTS}.down_proj`]: zeros([2, 64, 32]),
    };
    const path = write('both-forms.safetensors', safetensors({ ...MXFP4, ...half }));
    expect(await failure(loadExperts(path, config, OPTIONS))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: `options.naming: expected one of gptOss, gptOssMxfp4, for ${path} holds layer 0 of each, got undefined`,
    });
    for (const [naming, transposed] of [
      ['gptOss', true],
      ['gptOssMxfp4', false],
    ] as const) {
      using loaded = await loadExperts(path, config, { layer: 0, naming });
      expect(loaded.config).toMatchObject({ transposed, gateUpLayout: 'interleaved' });
    }
  });

  test('a parameter that such models do not have', async () => {
    const path = write('no-biases.safetensors', safetensors(published('mixtral8x7b')));
    const config = shrunk('mixtral8x7b', { bias: true });
    expect(await failure(loadExperts(path, config, OPTIONS))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message:
        'preset: expected only parameters that checkpoints named as in mixtral have, got experts.gate_up_bias',
    });
  });

  test('a layer that is not there', async () => {
    const path = write('one-layer.safetensors', safetensors(published('mixtral8x7b')));
    const error = await failure(loadExperts(path, mixtral, { layer: 1 }));
    expect(error).toMatchObject({ code: 'ERR_FILE' });
    expect(error.message).toContain(`${path}: layer 1: expected a router named as in `);
  });

  test('a tensor in two files', async () => {
    const content = safetensors(published('mixtral8x7b'));
    const paths = [write('twice-a.safetensors', content), write('twice-b.safetensors', content)];
    expect(await failure(loadExperts(paths, mixtral, OPTIONS))).toMatchObject({
      code: 'ERR_FILE',
      message: `${paths[1]}: ${SPARSE}.gate.weight: expected a tensor of one file, got one of ${paths[0]} too`,
    });
  });

  test('a file that is not there, and one that is broken', async () => {
    const missing = `${folder}/missing.safetensors`;
    expect(await failure(loadExperts(missing, mixtral, OPTIONS))).toMatchObject({
      code: 'ERR_FILE',
      message: `${missing}: expected a readable file, got ENOENT`,
    });
    const truncated = write('truncated.safetensors', safetensors(published('mixtral8x7b')).subarray(0, -1));
    expect(await failure(loadExperts([truncated], mixtral, OPTIONS))).toMatchObject({ code: 'ERR_FILE' });
  });
});

describe('an index', () => {
  const all = Object.keys(published('mixtral8x7b'));
  const shard = 'indexed.safetensors';
  write(shard, safetensors(without(published('mixtral8x7b'), DOWN)));
  const index = (value: unknown) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
  const everyName = (file: string) => ({ weight_map: Object.fromEntries(all.map(name => [name, file])) });

  /** Title, content, and the end of the message. */
  const INDICES: [string, Buffer, string][] = [
    ['that is not JSON', index('{'), 'index: expected JSON, got '],
    ['that is a list', index([]), 'index: expected an object, got []'],
    ['without a map', index({ metadata: {} }), 'weight_map: expected an object, got undefined'],
    [
      'of numbers',
      index({ weight_map: { a: 1 } }),
      'weight_map.a: expected the name of a file beside the index, got 1',
    ],
    [
      'that leads out of its folder',
      index(everyName(`../${shard}`)),
      `expected the name of a file beside the index, got "../${shard}"`,
    ],
    [
      'with a key twice',
      index('{"weight_map":{},"weight_map":{}}'),
      'index: expected JSON, got the key "weight_map" twice',
    ],
    [
      'of shards that are missing',
      index(everyName('lost.safetensors')),
      'lost.safetensors: expected a readable file, got ENOENT',
    ],
    [
      'of tensors that are missing',
      index(everyName(shard)),
      `${folder}/${shard}: ${DOWN}: expected a tensor of this name, as `,
    ],
  ];

  test.each(INDICES)('%s', async (title, content, sentence) => {
    const path = write(`index ${title}.json`, content);
    const error = await failure(loadExperts(path, mixtral, OPTIONS));
    expect(error.code).toBe('ERR_FILE');
    expect(error.message).toContain(sentence);
  });
});

describe('arguments', () => {
  const path = write('arguments.safetensors', safetensors(published('mixtral8x7b')));
  const load = (files: unknown, options: unknown, config: Preset = mixtral) =>
    failure(loadExperts(files as string, config, options as LoadExpertsOptions));

  /** Title, files, options, and the message. */
  const ARGUMENTS: [string, unknown, unknown, string][] = [
    ['no file', [], OPTIONS, 'files: expected a path or several, got []'],
    ['a number for a file', 5, OPTIONS, 'files: expected a path or several, got 5'],
    ['a file twice', [path, path], OPTIONS, 'files: expected each path once, got an array of length 2'],
    [
      'an index among files',
      [path, 'index.json'],
      OPTIONS,
      'files: expected an index alone or safetensors files, got both',
    ],
    ['no options', path, undefined, 'options: expected an object, got undefined'],
    [
      'an unknown option',
      path,
      { layer: 0, part: 1 },
      'options: expected only the keys layer, dtype, device, naming, got "part"',
    ],
    [
      'a negative layer',
      path,
      { layer: -1 },
      'options.layer: expected an integer from 0 to 2147483647, got -1',
    ],
    ['an unknown naming', path, { layer: 0, naming: 'llama' }, 'options.naming: expected one of mixtral, '],
  ];

  test.each(ARGUMENTS)('%s', async (_, files, options, message) => {
    const error = await load(files, options);
    expect(error.code).toBe('ERR_INVALID_ARGUMENT');
    expect(error.message).toContain(message);
  });

  test('an integer dtype', async () => {
    expect(await load(path, { layer: 0, dtype: 'int32' })).toMatchObject({ code: 'ERR_DTYPE' });
  });

  test('a configuration that no layer could have', async () => {
    expect(await load(path, OPTIONS, { ...mixtral, topK: 9 })).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    });
  });
});
