// ggml, which llama.cpp computes with and which no npm package has at the level of ops: the layer as llama.cpp's graph chains it, in
// an addon (`ggml/`) that is built against a checkout of ggml.

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { type LayerTensor, readFloats } from './layer-files.ts';
import { peerFile } from './packages.ts';
import { type Load, nodeProgram, type Peer, unsupported } from './peer.ts';

const FOLDER = peerFile('ggml');
/** Its gelu looks up a table of float16. */
const ACTIVATIONS = ['swiglu', 'silu', 'relu', 'identity'];

export const ggml: Peer = {
  name: 'ggml',
  absent: ({ ggml: source }) =>
    source === undefined ? 'no checkout of it (--ggml)' : build(resolve(source)),
  can: task =>
    unsupported(task, {
      dtypes: ['float32', 'bfloat16', 'float16'],
      passes: ['forward'],
      activations: ACTIVATIONS,
    }),
  program: () => nodeProgram(import.meta.url),
};

/** Builds the addon where that was not done yet. Returns what went wrong, if anything. */
function build(source: string): string | undefined {
  process.stderr.write(`Building against ${source}\n`);
  const args = ['cmake-js', 'build', '-d', FOLDER, `--CDGGML_SOURCE=${source}`];
  const { status, stdout, stderr, error } = spawnSync('npx', args, { encoding: 'utf8' });
  if (status === 0) return undefined;
  process.stderr.write(`${stdout ?? ''}${stderr ?? ''}`);
  return `its addon could not be built with ${source}: ${error?.message ?? `exit code ${status}`}`;
}

/** What `ggml/layer.cpp` exports. */
interface Addon {
  readonly version: string;
  readonly Layer: new (
    options: object,
    values: Record<LayerTensor, Float32Array>,
  ) => { run(): void; y(): Float32Array };
}

export const load: Load = async ({ shape, dtype, threads }, folder) => {
  const addon = createRequire(import.meta.url)(join(FOLDER, 'build/Release/ggml_layer.node')) as Addon;
  const tensors = ['x', 'router', 'up', 'down'] as const satisfies LayerTensor[];
  const values = Object.fromEntries(tensors.map(name => [name, readFloats(folder, name)]));
  const layer = new addon.Layer({ ...shape, dtype, threads }, values as Record<LayerTensor, Float32Array>);
  return {
    ...{ version: addon.version, threads },
    run: () => layer.run(),
    results: () => ({ y: layer.y() }),
    clear: () => {},
  };
};
