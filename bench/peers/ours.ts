// Our side of a race: the layer as files that peers load, and what ours computes of it.

import type { Tensor } from '../../src/tensor.ts';
import { writing } from '../file-access.ts';
import type { MeasuredPass } from '../measured-case.ts';
import type { Workload } from '../workload.ts';
import { type LayerTensor, writeFloats } from './layer-files.ts';
import { comparedExperts, type Results } from './peer.ts';

/** @throws MoeError ERR_FILE, as where the disk is full */
export async function writeLayer(
  { x, dy, router, experts, upName }: Workload,
  folder: string,
): Promise<void> {
  const tensors: Record<LayerTensor, Tensor> = {
    ...{ x, dy, router: router.weight!, up: experts[upName]!, down: experts.down },
  };
  for (const [name, tensor] of Object.entries(tensors)) {
    const values = await tensor.float32();
    writing('vs', folder, () => writeFloats(folder, name, values));
  }
}

/** Runs once. */
export async function computeResults(workload: Workload, pass: MeasuredPass): Promise<Results> {
  pass.prepare();
  pass.run();
  try {
    return await readResults(workload, pass);
  } finally {
    pass.clear();
  }
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
