// ggml, which llama.cpp computes with and which no npm package has at the level of ops: the layer as llama.cpp's graph chains it, in
// an addon (`ggml/`, in a checkout of this package alone) that is built against a checkout of ggml.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { type LayerTensor, readFloats } from './layer-files.ts';
import { peerFile } from './packages.ts';
import { type Load, nodeProgram, type Peer, type Say } from './peer.ts';

const FOLDER = peerFile('ggml');
export const ggml: Peer = {
  name: 'ggml',
  dtypes: ['float32', 'bfloat16', 'float16'],
  passes: ['forward'],
  // Its gelu looks up a table of float16.
  activations: ['swiglu', 'silu', 'relu', 'identity'],
  gpus: false,
  absent: async ({ ggml: source }, say) => {
    if (!existsSync(FOLDER)) return 'a package without its sources, which a checkout of moe-kernels has';
    return source === undefined ? 'no checkout of it (--ggml)' : build(resolve(source), say);
  },
  program: () => nodeProgram(import.meta.url),
};

/** Builds the addon where that was not done yet. Returns what went wrong, if anything. */
function build(source: string, say: Say): string | undefined {
  say(`building for ggml in ${source}`);
  const args = ['cmake-js', 'build', '-d', FOLDER, `--CDGGML_SOURCE=${source}`];
  // What the compiler prints is no result.
  const { status, error } = spawnSync('npx', args, { stdio: ['ignore', 2, 2] });
  if (status === 0) return undefined;
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
