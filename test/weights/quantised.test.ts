// Layers loaded from the quantised forms that models are released in: every code, blocks cut by a matrix's edge, strips that
// start within a block, and the layer's dtype.

import { describe, expect, test } from 'vitest';
import { loadExperts, MoELayer, type NamedTensors, type Preset, tensor } from '../../src/index.ts';
import { type FileTensors, safetensors, temporaryFiles } from '../cli/support/safetensors.ts';
import { decode, encode, type Float, representable } from '../support/dtypes.ts';
import { seeded } from '../support/random.ts';
import { shrunk } from '../support/shrunk.ts';
import { type Matrices, type Matrix, PUBLISHED, randomParameters, stored } from './support/published.ts';
import { fp4Value, fp8Matrix, fp8Value, mxfp4Matrices } from './support/quantised.ts';
import { expectSameLayer } from './support/same-layer.ts';

const { write } = temporaryFiles();
const ASKED: (Float | undefined)[] = [undefined, 'float32', 'float16'];

/** A layer of these values, as it is loaded from a file that holds them quantised and what is not quantised in bfloat16. */
function directLayer(config: Preset, values: Matrices): MoELayer {
  const dtype = config.dtype!;
  const weights: NamedTensors = {};
  for (const [name, matrix] of Object.entries(values)) {
    const wide = name === 'router.selection_bias' || (dtype === 'float16' && /^router|_bias$/.test(name));
    const kept = wide ? 'float32' : dtype;
    weights[name] = tensor(encode(kept, matrix.values), matrix.shape, { dtype: kept });
  }
  return new MoELayer(config, { weights });
}

/** What is stored in bfloat16. */
function rounded({ shape, values }: Matrix): Matrix {
  return { shape, values: representable('bfloat16', values) };
}

describe('8-bit floats in blocks', () => {
  const PROJECTION = /(gate|up|down)_proj\.weight$/;

  /** A checkpoint of random codes, none of them NaN, and the parameters that it holds. */
  function published(
    name: 'deepseekV3' | 'qwen3_30bA3b',
    config: Preset,
  ): { file: FileTensors; values: Matrices } {
    const random = seeded(1);
    const parameters = randomParameters(config, 2);
    const matrices: Matrices = {};
    let file: FileTensors = {};
    for (const [key, matrix] of Object.entries(PUBLISHED[name](parameters, 0))) {
      if (PROJECTION.test(key)) {
        const codes = Uint8Array.from(matrix.values, () => random.integer(127) + 128 * random.integer(2));
        const scale = () => (1 + random.integer(128) / 128) * 2 ** -12;
        const quantised = fp8Matrix(key, matrix.shape as [number, number], codes, scale);
        file = { ...file, ...quantised.tensors };
        matrices[key] = quantised.matrix;
      } else {
        file = { ...file, ...stored({ [key]: matrix }, 'bfloat16') };
      }
    }
    return { file, values: packed(parameters, matrices, config.experts) };
  }

  function packed(parameters: Matrices, matrices: Matrices, experts: number): Matrices {
    const values: Matrices = {};
    for (const [name, parameter] of Object.entries(parameters)) values[name] = rounded(parameter);
    const join = (name: string, projections: string[]) => {
      const parts = Array.from({ length: experts }, (_, e) =>
        projections.map(
          projection => matrices[`model.layers.0.mlp.experts.${e}.${projection}.weight`]!.values,
        ),
      ).flat();
      values[name] = {
        shape: parameters[name]!.shape,
        values: new Float32Array(parameters[name]!.values.length),
      };
      let at = 0;
      for (const part of parts) {
        values[name].values.set(part, at);
        at += part.length;
      }
    };
    join('experts.gate_up', ['gate_proj', 'up_proj']);
    join('experts.down', ['down_proj']);
    for (const part of ['gate', 'up', 'down']) {
      const shared = matrices[`model.layers.0.mlp.shared_experts.${part}_proj.weight`];
      if (shared) values[`shared.${part}`] = shared;
    }
    return values;
  }

  const config = shrunk('deepseekV3', { hidden: 300, intermediate: 200, shared: { intermediate: 140 } });

  test.each(ASKED)('DeepSeek-V3 with cut blocks, asked for %s', async dtype => {
    const { file, values } = published('deepseekV3', config);
    const path = write('fp8.safetensors', safetensors(file));
    using loaded = await loadExperts(path, config, { layer: 0, dtype });
    using direct = directLayer({ ...config, dtype: dtype ?? 'bfloat16' }, values);
    expectSameLayer(loaded, direct);
  });

  test('scales in bfloat16', async () => {
    const { file, values } = published('deepseekV3', config);
    for (const [name, { shape, data }] of Object.entries(file)) {
      if (!name.endsWith('_scale_inv')) continue;
      file[name] = { dtype: 'BF16', shape, data: encode('bfloat16', data as Float32Array) };
    }
    const path = write('fp8-bf16.safetensors', safetensors(file));
    using loaded = await loadExperts(path, config, { layer: 0, dtype: 'float32' });
    using direct = directLayer({ ...config, dtype: 'float32' }, values);
    expectSameLayer(loaded, direct);
  });

  test('matrices longer than a strip', async () => {
    const long = shrunk('qwen3_30bA3b', { hidden: 1500, intermediate: 900, experts: 1, topK: 1 });
    const { file, values } = published('qwen3_30bA3b', long);
    const path = write('fp8-long.safetensors', safetensors(file));
    using loaded = await loadExperts(path, long, { layer: 0 });
    using direct = directLayer({ ...long, dtype: 'bfloat16' }, values);
    expectSameLayer(loaded, direct);
  });

  test('all 256 codes', async () => {
    const small = shrunk('qwen3_30bA3b', { hidden: 16, intermediate: 16 });
    const { file } = published('qwen3_30bA3b', small);
    const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
    const name = 'model.layers.0.mlp.experts.0.gate_proj.weight';
    Object.assign(file, fp8Matrix(name, [16, 16], codes, () => 1).tensors);
    const path = write('fp8-codes.safetensors', safetensors(file));
    using loaded = await loadExperts(path, small, { layer: 0, dtype: 'float32' });
    const values = [...loaded.parameters['experts.gate_up']!.dataSync().subarray(0, 256)];
    expect(values).toEqual([...codes].map(fp8Value));
    for (const [code, value] of FP8_BY_HAND) expect(values[code]).toBe(value);
    expect(values.filter(Number.isNaN)).toHaveLength(2);
  });

  /** Zeros, both ends of the subnormal range, the smallest normal number, ordinary ones, the largest, NaN. */
  const FP8_BY_HAND: [code: number, value: number][] = [
    [0x00, 0],
    [0x80, -0],
    [0x01, 0.001953125],
    [0x81, -0.001953125],
    [0x07, 0.013671875],
    [0x08, 0.015625],
    [0x38, 1],
    [0x3c, 1.5],
    [0x45, 3.25],
    [0xc2, -2.5],
    [0x77, 240],
    [0x7e, 448],
    [0xfe, -448],
    [0x7f, Number.NaN],
    [0xff, Number.NaN],
  ];
});

describe('MXFP4', () => {
  const EXPERTS = 'model.layers.0.mlp.experts';
  const LAYOUT = { gateUpLayout: 'interleaved', transposed: false } as const;

  /** A checkpoint of random codes and exponents, and the parameters that it holds, in its layout. */
  function published(config: Preset): { file: FileTensors; values: Matrices } {
    const random = seeded(3);
    const { hidden, intermediate, experts } = config;
    const quantised = (name: string, rows: number, columns: number) => {
      const codes = Uint8Array.from({ length: experts * rows * columns }, () => random.integer(16));
      const exponents = Uint8Array.from({ length: codes.length / 32 }, () => 119 + random.integer(5));
      return mxfp4Matrices(`${EXPERTS}.${name}`, [experts, rows, columns], codes, exponents);
    };
    const gateUp = quantised('gate_up_proj', 2 * intermediate, hidden);
    const down = quantised('down_proj', hidden, intermediate);
    const parameters = randomParameters(config, 4);
    const rest = PUBLISHED.gptOss20b(parameters, 0);
    for (const name of ['gate_up_proj', 'down_proj']) delete rest[`${EXPERTS}.${name}`];
    const values: Matrices = {
      'router.weight': rounded(parameters['router.weight']!),
      'router.bias': rounded(parameters['router.bias']!),
      'experts.gate_up': gateUp.matrix,
      'experts.gate_up_bias': rounded(rest[`${EXPERTS}.gate_up_proj_bias`]!),
      'experts.down': down.matrix,
      'experts.down_bias': rounded(parameters['experts.down_bias']!),
    };
    return { file: { ...stored(rest, 'bfloat16'), ...gateUp.tensors, ...down.tensors }, values };
  }

  const config = shrunk('gptOss20b', { hidden: 64, intermediate: 96 });

  test.each(ASKED)('gpt-oss asked for %s', async dtype => {
    const { file, values } = published(config);
    const path = write('mxfp4.safetensors', safetensors(file));
    using loaded = await loadExperts(path, config, { layer: 0, dtype });
    using direct = directLayer({ ...config, ...LAYOUT, dtype: dtype ?? 'bfloat16' }, values);
    expectSameLayer(loaded, direct);
  });

  test('matrices longer than a strip', async () => {
    const long = shrunk('gptOss20b', { hidden: 960, intermediate: 576, experts: 2, topK: 1 });
    const { file, values } = published(long);
    const path = write('mxfp4-long.safetensors', safetensors(file));
    using loaded = await loadExperts(path, long, { layer: 0 });
    using direct = directLayer({ ...long, ...LAYOUT, dtype: 'bfloat16' }, values);
    expectSameLayer(loaded, direct);
  });

  test('all 16 codes, the first of a byte in its low bits, and every kind of exponent', async () => {
    const small = shrunk('gptOss20b', { hidden: 32, intermediate: 32 });
    const { file } = published(small);
    const pairs = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe];
    const exponents = [127, 128, 120, 0, 254, 255];
    const { [`${EXPERTS}.gate_up_proj_blocks`]: blocks, [`${EXPERTS}.gate_up_proj_scales`]: scales } = file;
    for (let row = 0; row < exponents.length; row++) {
      (blocks!.data as Uint8Array).set([...pairs, ...pairs], row * 16);
      (scales!.data as Uint8Array)[row] = exponents[row]!;
    }
    const path = write('mxfp4-codes.safetensors', safetensors(file));
    using loaded = await loadExperts(path, small, { layer: 0, dtype: 'float32' });
    const values = decode('float32', loaded.parameters['experts.gate_up']!.dataSync());
    const byHand = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];
    expect([...Array(16).keys()].map(fp4Value)).toEqual(byHand);
    const row = (factor: number) => [...byHand, ...byHand].map(value => Math.fround(value * factor));
    const expected = [1, 2, 2 ** -7, 2 ** -127, 2 ** 127, Number.NaN].flatMap(row);
    expect([...values.subarray(0, expected.length)]).toEqual(expected);
    expect(expected.filter(value => Math.abs(value) === Infinity)).toHaveLength(16);
  });
});
