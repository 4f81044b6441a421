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
  const plain = stage ? measuredStage(layers, stage) : measuredPass(layers, pass);
  return graph ? capturedCall(device, plain) : plain;
}

/** A pass as it is timed, and what it made last. */
export interface MeasuredPass extends MeasuredCase {
  made(): { readonly forward: WorkloadForward; readonly gradients?: MoeGradients };
}

/** `backward` runs after a forward pass that is not timed, and that the layer keeps. */
export function measuredPass(layers: readonly Workload[], pass: Pass): MeasuredPass {
  let at = 0;
  let forward: WorkloadForward | undefined;
  let gradients: MoeGradients | undefined;
  const runForward = () => {
    forward = layers[at]!.forward(pass === 'forward' ? 'nothing' : 'activations');
  };
  const keepForward = () => {
    forward = layers[at]!.keptForward();
  };
  const runBackward = () => {
    gradients = layers[at]!.backward(forward!.saved!);
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
    time: call => timeOn(layers[0]!.device, call),
    made: () => ({ forward: forward!, gradients }),
    clear: () => {
      if (pass !== 'backward') disposeForward(forward!);
      if (gradients) disposeGradients(gradients);
      at = (at + 1) % layers.length;
    },
    // What lasts is the layers'.
    [Symbol.dispose]: () => {},
  };
}

function measuredStage(layers: readonly Workload[], stage: Stage): MeasuredCase {
  const inputs: StageInputs[] = [];
  const dispose = () => {
    for (const each of inputs) each.dispose();
  };
  try {
    for (const layer of layers) inputs.push(new StageInputs(layer));
  } catch (error) {
    dispose();
    throw error;
  }
  let at = 0;
  let made: Tensor[] = [];
  return {
    prepare: () => {},
    run: () => {
      made = inputs[at]!.run(stage);
    },
    time: call => timeOn(layers[0]!.device, call),
    clear: () => {
      for (const tensor of made) tensor.dispose();
      at = (at + 1) % layers.length;
    },
    [Symbol.dispose]: dispose,
  };
}
