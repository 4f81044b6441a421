// Trains a small byte-level language model with a Mixture-of-Experts feed-forward on any text file:
//
//   npx tsx examples/train-bytes.ts FILE [--router NAME] [--steps N] [--experts E] …     (--help lists them all)
//
// The layer runs in the package's kernels; everything around it, gradients included, is in examples/train-bytes/.

import { readFileSync } from 'node:fs';
import { Presets, SingleBar } from 'cli-progress';
import { MoeError } from '../src/index.ts';
import { HELP, type Options, parseCommandLine, UsageError } from './train-bytes/command-line.ts';
import { seededRandom } from './train-bytes/maths.ts';
import { ByteModel } from './train-bytes/model.ts';
import { Adam } from './train-bytes/parameter.ts';
import { RECIPES } from './train-bytes/routers.ts';
import { evenBatches, randomBatch, splitText, type Text, unigramEntropy } from './train-bytes/text.ts';
import { percent, Usage } from './train-bytes/usage.ts';

const WARMUP_STEPS = 50;
const VALIDATION_BYTES = 8192;

async function main(args: string[]): Promise<void> {
  const command = parseCommandLine(args);
  if (command === 'help') return console.log(HELP);
  const { file, options } = command;
  const bytes = readText(file);
  const text = splitText(bytes);
  if (text.validation.length < options.context + options.sequence) {
    throw new UsageError(`FILE: expected a longer text, got ${bytes.length} bytes`);
  }
  using model = createModel(options);
  console.log(
    `${bytes.length} bytes of text, ${countParameters(model)} parameters, router ${options.router}`,
  );
  const steps = await train(model, text, options);
  const { loss, usage } = await validate(model, text, options);
  console.log(`after ${steps} steps, on the last tenth of the text, which was not trained on:`);
  console.log(`  validation loss  ${bits(loss)} bits per byte`);
  const [entropy, entropyOfAll] = [text.validation, bytes].map(part => bits(unigramEntropy(part)));
  console.log(`  unigram entropy  ${entropy} bits per byte (${entropyOfAll} for the whole text)`);
  for (const line of usage.describe()) console.log(`  ${line}`);
}

function createModel(options: Options): ByteModel {
  try {
    return new ByteModel({ ...options, topK: options['top-k'], router: RECIPES[options.router] });
  } catch (error) {
    // Sizes that the router cannot have: the layer says which, and why.
    if (error instanceof MoeError) throw new UsageError(`--router ${options.router}: ${error.message}`);
    throw error;
  }
}

/** Steps until `steps` or `seconds` is reached; returns how many. */
async function train(model: ByteModel, text: Text, options: Options): Promise<number> {
  const { steps, seconds, 'learning-rate': learningRate } = options;
  const adam = new Adam(Object.values(model.parameters));
  const random = seededRandom(options.seed);
  const start = performance.now();
  const bar = progressBar(steps);
  let step = 0;
  let recent: { loss: number; shares: number[] } | undefined;
  while (step < steps && performance.now() - start < 1000 * seconds) {
    const losses = await model.run(randomBatch(text.training, options, random), step);
    adam.step(learningRate * Math.min((step + 1) / WARMUP_STEPS, 1 - step / steps));
    step++;
    const usage = new Usage(model.moe.layer.config.experts);
    usage.add(losses);
    recent ??= { loss: losses.prediction, shares: usage.shares };
    recent.loss = smooth(recent.loss, losses.prediction);
    recent.shares = recent.shares.map((share, e) => smooth(share, usage.shares[e]!));
    bar.update(step, { loss: bits(recent.loss), shares: recent.shares.map(percent).join(' ') });
  }
  bar.stop();
  return step;
}

function progressBar(steps: number): SingleBar {
  const format = 'training {bar} {percentage} % | step {value} | loss {loss} bits | experts {shares} %';
  const output = { format, barsize: 20, noTTYOutput: true, notTTYSchedule: 5000 };
  const bar = new SingleBar(output, Presets.shades_classic);
  bar.start(steps, 0, { loss: '-', shares: '-' });
  return bar;
}

/** Mean loss in nats per byte over the validation part, and how its bytes were routed; without noise. */
async function validate(model: ByteModel, text: Text, options: Options) {
  const usage = new Usage(model.moe.layer.config.experts);
  let sum = 0;
  for (const batch of evenBatches(text.validation, options, VALIDATION_BYTES)) {
    const losses = await model.run(batch);
    sum += losses.prediction * batch.targets.length;
    usage.add(losses);
  }
  return { loss: sum / usage.tokens, usage };
}

function smooth(mean: number, value: number): number {
  return 0.98 * mean + 0.02 * value;
}

function bits(nats: number): string {
  return (nats / Math.LN2).toFixed(3);
}

function countParameters(model: ByteModel): number {
  return Object.values(model.parameters).reduce((sum, { values }) => sum + values.length, 0);
}

function readText(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new UsageError(`FILE: ${(error as Error).message}`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
