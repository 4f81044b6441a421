// Layers loaded from checkpoints in the names and layouts of every model: the bits of each parameter, and a forward pass.

import { describe, expect, test } from 'vitest';
import {
  type ExpertLayout,
  loadExperts,
  MoELayer,
  type NamedTensors,
  type Preset,
  tensor,
} from '../../src/index.ts';
import { temporaryFiles } from '../cli/support/safetensors.ts';
import { decode, encode, type Float } from '../support/dtypes.ts';
import { tensorInLayout } from '../support/layouts.ts';
import { type PresetName, shrunk } from '../support/shrunk.ts';
import {
  checkpointFile,
  type Matrices,
  PUBLISHED,
  PUBLISHED_NAMES,
  randomParameters,
  switchDecoder,
  switchEncoder,
} from './support/published.ts';
import { expectSameLayer } from './support/same-layer.ts';

const { folder, write } = temporaryFiles();
const DTYPES: Float[] = ['float32', 'bfloat16', 'float16'];

/** Of those published otherwise than with gate rows before up rows, each of H columns. */
const LAYOUTS: Readonly<Partial<Record<PresetName, ExpertLayout>>> = {
  llama4Scout: { transposed: true },
  llama4Maverick: { transposed: true },
  gptOss20b: { gateUpLayout: 'interleaved', transposed: true },
  gptOss120b: { gateUpLayout: 'interleaved', transposed: true },
};

/** May stay float32 in a layer of another dtype. */
const wide = (name: string) => name.startsWith('router.') || name.endsWith('_bias');

function expectedDType(name: string, file: Float, layer: Float): Float {
  return name === 'router.selection_bias' || (wide(name) && file !== layer) ? 'float32' : layer;
}

/** The layer that the loaded one must equal, made of the same stored values in the layout they are published in. */
function directLayer(config: Preset, parameters: Matrices, file: Float, layout: ExpertLayout = {}): MoELayer {
  const dtype = config.dtype!;
  const weights: NamedTensors = {};
  for (const [name, matrix] of Object.entries(parameters)) {
    const kept = expectedDType(name, file, dtype);
    const { shape, values } = tensorInLayout(name, matrix, layout)[name]!;
    weights[name] = tensor(encode(kept, decode(file, encode(file, values))), shape, { dtype: kept });
  }
  return new MoELayer({ ...config, ...layout }, { weights });
}

describe.each(PUBLISHED_NAMES)('%s', name => {
  const config = shrunk(name);
  const layout = LAYOUTS[name];
  const publish = PUBLISHED[name];
  const parameters = randomParameters(config, 1);
  const layers = { ...publish(randomParameters(config, 2), 2), ...publish(parameters, 3) };

  test('in one file', async () => {
    const path = write(`${name}.safetensors`, checkpointFile(layers, 'bfloat16'));
    using loaded = await loadExperts(path, config, { layer: 3 });
    using direct = directLayer({ ...config, dtype: 'bfloat16' }, parameters, 'bfloat16', layout);
    expectSameLayer(loaded, direct);
  });

  test('in shards, of which only the needed ones are there', async () => {
    const shards: Matrices[] = [{}, {}, {}];
    const weightMap: { [tensor: string]: string } = { 'elsewhere.weight': `${name}-4.safetensors` };
    for (const [i, [tensor, matrix]] of Object.entries(layers).entries()) {
      shards[i % 3]![tensor] = matrix;
      weightMap[tensor] = `${name}-${i % 3}.safetensors`;
    }
    for (const [i, shard] of shards.entries())
      write(`${name}-${i}.safetensors`, checkpointFile(shard, 'float32'));
    const index = { metadata: { total_size: 0 }, weight_map: weightMap };
    const path = write(`${name}.safetensors.index.json`, Buffer.from(JSON.stringify(index)));
    using direct = directLayer({ ...config, dtype: 'float32' }, parameters, 'float32', layout);
    using indexed = await loadExperts(path, config, { layer: 3 });
    expectSameLayer(indexed, direct);
    const paths = [0, 1, 2].map(i => `${folder}/${name}-${i}.safetensors`);
    using listed = await loadExperts(paths, config, { layer: 3 });
    expectSameLayer(listed, direct);
  });
});

describe.each(['mixtral8x7b', 'deepseekV3', 'gptOss20b'] as const)('%s from and to every dtype', name => {
  const config = shrunk(name);
  const parameters = randomParameters(config, 7);

  test.each(DTYPES.flatMap(file => DTYPES.map(dtype => ({ file, dtype }))))(
    '$file on disk, a layer of $dtype',
    async ({ file, dtype }) => {
      const path = write(`${name}-${file}.safetensors`, checkpointFile(PUBLISHED[name](parameters, 0), file));
      using loaded = await loadExperts(path, config, { layer: 0, dtype });
      using direct = directLayer({ ...config, dtype }, parameters, file, LAYOUTS[name]);
      expectSameLayer(loaded, direct);
    },
  );

  test('the dtype of the preset', async () => {
    const path = write(
      `${name}-preset.safetensors`,
      checkpointFile(PUBLISHED[name](parameters, 0), 'bfloat16'),
    );
    using loaded = await loadExperts(path, { ...config, dtype: 'float32' }, { layer: 0 });
    expect(loaded.config.dtype).toBe('float32');
  });
});

test.each(['gptOss20b', 'dbrx'] as const)('matrices longer than a strip: %s', async name => {
  const config = shrunk(name, { hidden: 400, intermediate: 700, experts: 2, topK: 1 });
  const parameters = randomParameters(config, 3);
  const path = write(`${name}-long.safetensors`, checkpointFile(PUBLISHED[name](parameters, 0), 'float32'));
  for (const dtype of DTYPES) {
    using loaded = await loadExperts(path, config, { layer: 0, dtype });
    using direct = directLayer({ ...config, dtype }, parameters, 'float32', LAYOUTS[name]);
    expectSameLayer(loaded, direct);
  }
});

test('a layout that the checkpoint does not have is refused', async () => {
  const config = shrunk('gptOss20b');
  const parameters = randomParameters(config, 3);
  const path = write('layout.safetensors', checkpointFile(PUBLISHED.gptOss20b(parameters, 0), 'float32'));
  using loaded = await loadExperts(path, { ...config, transposed: true }, { layer: 0 });
  expect(loaded.config).toMatchObject(LAYOUTS.gptOss20b!);
  await expect(
    loadExperts(path, { ...config, gateUpLayout: 'concatenated' }, { layer: 0 }),
  ).rejects.toMatchObject({
    code: 'ERR_INVALID_ARGUMENT',
    message:
      'preset.gateUpLayout: expected interleaved, as checkpoints named as in gptOss have it, got concatenated',
  });
});

test('Switch: the encoder’s layer or the decoder’s, as asked', async () => {
  const config = shrunk('switchBase128');
  const [encoder, decoder] = [randomParameters(config, 1), randomParameters(config, 2)];
  const both = { ...switchEncoder(encoder, 1), ...switchDecoder(decoder, 1) };
  const path = write('switch.safetensors', checkpointFile(both, 'float32'));
  for (const [naming, parameters] of [
    ['switchEncoder', encoder],
    ['switchDecoder', decoder],
  ] as const) {
    using loaded = await loadExperts(path, config, { layer: 1, naming });
    using direct = directLayer({ ...config, dtype: 'float32' }, parameters, 'float32');
    expectSameLayer(loaded, direct);
  }
  await expect(loadExperts(path, config, { layer: 1 })).rejects.toMatchObject({
    code: 'ERR_INVALID_ARGUMENT',
    message: `options.naming: expected one of switchEncoder, switchDecoder, for ${path} holds layer 1 of each, got undefined`,
  });
});
