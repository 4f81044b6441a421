// Trains a small byte-level language model with a Mixture-of-Experts feed-forward on any text file:
//
//   npx tsx examples/train-bytes.ts FILE [--steps N] [--seconds S] [--experts E] …     (--help lists them all)
//
// The layer runs in the package's kernels; everything around it, gradients included, is in examples/train-bytes/.

import { readFileSync } from 'node:fs';
import { Presets, SingleBar } from 'cli-progress';
import { HELP, type Options, parseCommandLine, UsageError } from './train-bytes/command-line.ts';
import { seededRandom } from './train-bytes/maths.ts';
import { ByteModel } from './train-bytes/model.ts';
import { Adam } from './train-bytes/parameter.ts';
import { evenBatches, randomBatch, splitText, type Text, unigramEntropy } from './train-bytes/text.ts';

const WARMUP_STEPS = 50;
const VALIDATION_BYTES = 8192;

async function main(args: string[]): Promise<void> {
  const command = parseCommandLine(args);
  if (command === 'help') return console.log(HELP);
  const { file, options } = command;
  const bytes = readText(file);
  const text = splitText(bytes);
  if (text.validation.length <= options.context) {
    throw new UsageError(`FILE: expected a longer text, got ${bytes.length} bytes`);
  }
  using model = new ByteModel({ ...options, topK: options['top-k'] });
  console.log(`${bytes.length} bytes of text, ${countParameters(model)} parameters`);
  const steps = await train(model, text, options);
  const { loss, shares } = await validate(model, text, options.tokens);
  console.log(`after ${steps} steps, on the last tenth of the text, which was not trained on:`);
  console.log(`  validation loss  ${bits(loss)} bits per byte`);
  const [entropy, entropyOfAll] = [text.validation, bytes].map(part => bits(unigramEntropy(part)));
  console.log(`  unigram entropy  ${entropy} bits per byte (${entropyOfAll} for the whole text)`);
  console.log(`  ${shares.filter(share => share > 0).length} of ${shares.length} experts used:`);
  shares.forEach((share, expert) => {
    const bar = '█'.repeat(Math.round(100 * share));
    console.log(`    expert ${expert}  ${percent(share).padStart(5)} %  ${bar}`);
  });
}

/** Steps until `steps` or `seconds` is reached; returns how many. */
async function train(model: ByteModel, text: Text, options: Options): Promise<number> {
  const { steps, seconds, tokens, context, experts, 'learning-rate': learningRate } = options;
  const adam = new Adam(Object.values(model.parameters));
  const random = seededRandom(options.seed);
  const start = performance.now();
  const bar = progressBar(steps);
  let step = 0;
  let recent: { loss: number; shares: number[] } | undefined;
  while (step < steps && performance.now() - start < 1000 * seconds) {
    const losses = await model.run(randomBatch(text.training, tokens, context, random), true);
    adam.step(learningRate * Math.min((step + 1) / WARMUP_STEPS, 1 - step / steps));
    step++;
    const shares = sharesOf(losses.counts);
    recent ??= { loss: losses.prediction, shares: shares.map(() => 1 / experts) };
    recent.loss = smooth(recent.loss, losses.prediction);
    recent.shares = recent.shares.map((share, e) => smooth(share, shares[e]!));
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

/** Mean loss in nats per byte over the validation part, and each expert's share of its routed rows. */
async function validate(model: ByteModel, text: Text, tokens: number) {
  const { context, experts } = model.config;
  const counts = new Array<number>(experts).fill(0);
  let sum = 0;
  let predicted = 0;
  for (const batch of evenBatches(text.validation, tokens, context, VALIDATION_BYTES)) {
    const losses = await model.run(batch);
    sum += losses.prediction * batch.targets.length;
    predicted += batch.targets.length;
    for (let e = 0; e < experts; e++) counts[e]! += losses.counts[e]!;
  }
  return { loss: sum / predicted, shares: sharesOf(counts) };
}

function sharesOf(counts: ArrayLike<number>): number[] {
  const all = Array.from(counts);
  const total = all.reduce((a, b) => a + b, 0);
  return all.map(count => count / total);
}

function smooth(mean: number, value: number): number {
  return 0.98 * mean + 0.02 * value;
}

function bits(nats: number): string {
  return (nats / Math.LN2).toFixed(3);
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
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
