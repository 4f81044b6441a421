// What is timed of a case, on each of equal layers in turn: a pass, or an op by itself, launched as it is or as a captured graph.

import type { MoeGradients } from '../src/ops/moe.ts';
import type { Tensor } from '../src/tensor.ts';
import type { BenchCase } from './campaign.ts';
import { capturedCall } from './captured-call.ts';
import { timeOn } from './clock.ts';
import type { Measured } from './measure.ts';
import type { Pass } from './shapes.ts';
import { type Stage, StageInputs } from './stages.ts';
import { disposeForward, disposeGradients, type Workload, type WorkloadForward } from './workload.ts';

/** Holds what lasts from run to run. */
export type MeasuredCase = Measured & Disposable;

export function measuredCase(
  layers: readonly Workload[],
  { pass, stage, graph, device }: Pick<BenchCase, 'pass' | 'stage' | 'graph' | 'device'>,
): MeasuredCase {
  return byTurns(layers, layer => {
    const plain = stage ? measuredStage(layer, stage) : measuredPass(layer, pass);
    return graph ? capturedCall(device, plain) : plain;
  });
}

/** The call of one layer after the other, and then of the first again. */
function byTurns(layers: readonly Workload[], callOf: (layer: Workload) => MeasuredCase): MeasuredCase {
  const calls: MeasuredCase[] = [];
  const dispose = () => {
    for (const call of calls) call[Symbol.dispose]();
  };
  try {
    for (const layer of layers) calls.push(callOf(layer));
  } catch (error) {
    dispose();
    throw error;
  }
  let at = 0;
  return {
    prepare: () => calls[at]!.prepare(),
    run: () => calls[at]!.run(),
    time: call => timeOn(layers[0]!.device, call),
    clear: () => {
      calls[at]!.clear();
      at = (at + 1) % calls.length;
    },
    [Symbol.dispose]: dispose,
  };
}

/** A pass as it is timed, and what it made last. */
export interface MeasuredPass extends MeasuredCase {
  made(): { readonly forward: WorkloadForward; readonly gradients?: MoeGradients };
}

/** `backward` runs after a forward pass that is not timed, and that the layer keeps. */
export function measuredPass(layer: Workload, pass: Pass): MeasuredPass {
  let forward: WorkloadForward | undefined;
  let gradients: MoeGradients | undefined;
  const runForward = () => {
    forward = layer.forward(pass === 'forward' ? 'nothing' : 'activations');
  };
  const keepForward = () => {
    forward = layer.keptForward();
  };
  const runBackward = () => {
    gradients = layer.backward(forward!.saved!);
  };
  const steps = {
    forward: { untimed: [], timed: [runForward] },
    backward: { untimed: [keepForward], timed: [runBackward] },
    both: { untimed: [], timed: [runForward, runBackward] },
  }[pass];
  const inOrder = (calls: readonly (() => void)[]) => () => {
    for (const call of calls) call();
  };
  return {
    prepare: inOrder(steps.untimed),
    run: inOrder(steps.timed),
    time: call => timeOn(layer.device, call),
    made: () => ({ forward: forward!, gradients }),
    clear: () => {
      if (pass !== 'backward') disposeForward(forward!);
      if (gradients) disposeGradients(gradients);
    },
    // What lasts is the layer's.
    [Symbol.dispose]: () => {},
  };
}

function measuredStage(layer: Workload, stage: Stage): MeasuredCase {
  const inputs = new StageInputs(layer);
  let made: Tensor[] = [];
  return {
    prepare: () => {},
    run: () => {
      made = inputs.run(stage);
    },
    time: call => timeOn(layer.device, call),
    clear: () => {
      for (const tensor of made) tensor.dispose();
    },
    [Symbol.dispose]: () => inputs.dispose(),
  };
}
