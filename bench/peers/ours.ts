// This package as a contender: it makes the layer, checks itself against the float64 reference, and writes the layer's files for
// the others.

import { setThreads, synchronize, trimMemory } from '../../src/device.ts';
import { DTYPES } from '../../src/dtype.ts';
import { packageVersion } from '../../src/package.ts';
import type { Tensor } from '../../src/tensor.ts';
import { checkWorkload } from '../check.ts';
import { type MeasuredPass, measuredPass } from '../measured-case.ts';
import { checkMemory } from '../memory.ts';
import { WrongResult } from '../run.ts';
import { Workload } from '../workload.ts';
import { type LayerTensor, writeFloats } from './layer-files.ts';
import { comparedExperts, type Load, nodeProgram, type Peer, type Results } from './peer.ts';

export const ours: Peer = {
  name: 'moe-kernels',
  can: () => undefined,
  program: () => nodeProgram(import.meta.url),
};

export const load: Load = async (task, folder) => {
  const { shape, dtype, pass, threads } = task;
  const backward = pass === 'both';
  setThreads(threads);
  checkMemory('one', shape, { backward, elementBytes: DTYPES[dtype].bytes });
  const workload = new Workload(shape, dtype, 'cpu');
  const comparisons = await checkWorkload(workload, backward);
  if (!comparisons.every(({ holds }) => holds)) throw new WrongResult(comparisons);
  for (const [name, tensor] of Object.entries(layerTensors(workload)))
    writeFloats(folder, name, await tensor.float32());
  trimMemory();
  const measured = measuredPass([workload], pass);
  return {
    ...{ version: packageVersion(), threads },
    run: () => {
      measured.run();
      synchronize();
    },
    clear: () => measured.clear(),
    results: () => readResults(workload, measured),
  };
};

function layerTensors({ x, dy, router, experts, upName }: Workload): Record<LayerTensor, Tensor> {
  return { x, dy, router: router.weight!, up: experts[upName]!, down: experts.down };
}

async function readResults({ shape, upName }: Workload, { made }: MeasuredPass): Promise<Results> {
  const { forward, gradients } = made();
  const y = await forward.y.float32();
  if (!gradients) return { y };
  const someExperts = async (gradient: Tensor) => {
    const values = await gradient.float32();
    const size = values.length / shape.experts;
    const parts = comparedExperts(shape).map(e => values.subarray(e * size, (e + 1) * size));
    const taken = new Float32Array(parts.length * size);
    for (const [i, part] of parts.entries()) taken.set(part, i * size);
    return taken;
  };
  return {
    y,
    dx: await gradients.dx.float32(),
    'd.router': await gradients.dRouterWeight!.float32(),
    'd.up': await someExperts(gradients.experts[upName]!),
    'd.down': await someExperts(gradients.experts.down!),
  };
}
