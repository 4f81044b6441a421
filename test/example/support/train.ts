// A short training run of the example's model, and how its experts were used afterwards.

import { seededRandom } from '../../../examples/train-bytes/maths.ts';
import { ByteModel, type ModelConfig } from '../../../examples/train-bytes/model.ts';
import { Adam } from '../../../examples/train-bytes/parameter.ts';
import { RECIPES, type RouterName } from '../../../examples/train-bytes/routers.ts';
import { evenBatches, randomBatch, splitText } from '../../../examples/train-bytes/text.ts';
import { Usage } from '../../../examples/train-bytes/usage.ts';

export interface Training {
  bytes: Uint8Array;
  steps: number;
  config: Omit<ModelConfig, 'router'>;
  tokens: number;
  validationBytes: number;
}

const LEARNING_RATE = 0.01;

/** The loss of each step, then the loss and the use of the experts on the text that was not trained on. */
export async function train(router: RouterName, { bytes, steps, config, tokens, validationBytes }: Training) {
  const text = splitText(bytes);
  const shape = { ...config, tokens };
  using model = new ByteModel({ ...config, router: RECIPES[router] });
  const adam = new Adam(Object.values(model.parameters));
  const random = seededRandom(config.seed);
  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    losses.push((await model.run(randomBatch(text.training, shape, random), step)).prediction);
    adam.step(LEARNING_RATE);
  }
  const usage = new Usage(model.moe.layer.config.experts);
  let sum = 0;
  for (const batch of evenBatches(text.validation, shape, validationBytes)) {
    const result = await model.run(batch);
    sum += result.prediction * result.tokens;
    usage.add(result);
  }
  return { losses, validation: sum / usage.tokens, usage };
}
