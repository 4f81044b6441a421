// `npm run bench:peers`: this package beside others that compute the same layer, in one process tree.

import { availableParallelism } from 'node:os';
import { Command, CommanderError, Option } from 'commander';
import { checkInteger } from '../../src/check.ts';
import { checkPositive, parseCounts, parseList } from '../../src/cli/option-values.ts';
import { type ExitCode, printJson, printLine, reportError } from '../../src/cli/output.ts';
import { FLOAT_DTYPES } from '../../src/dtype.ts';
import { badArgument } from '../../src/errors.ts';
import { processorName } from '../processor.ts';
import { type LayerShape, parseShape, SHAPES } from '../shapes.ts';
import { FEWEST_VALUES } from '../statistics.ts';
import { ggml } from './ggml.ts';
import { onnxruntime } from './onnxruntime.ts';
import { PEER_PASSES, type Peer, type Task } from './peer.ts';
import { type LeftOut, race } from './race.ts';
import { describeLeftOut, printRace, printRaceJson } from './report.ts';
import { tfjsWasm } from './tfjs-wasm.ts';
import { torch } from './torch.ts';

const PEERS: readonly Peer[] = [onnxruntime, ggml, tfjsWasm, torch];

/** A few tokens at a time, as in generation. */
const DECODE_TOKENS = [1, 4, 16];
const DECODED = ['mixtral-mini', 'deepseek-mini', 'qwen3-mini'];

interface Options {
  shape: string[];
  tokens?: string;
  dtype: string;
  pass: string;
  peers?: string;
  threads: string;
  rounds: string;
  minTime: string;
  python: string;
  ggml?: string;
  json: boolean;
}

async function main(args: readonly string[]): Promise<ExitCode> {
  try {
    const command = commandLine();
    command.parse(args, { from: 'user' });
    return await run(command.opts<Options>());
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    return reportError(error, args.includes('--json'));
  }
}

function commandLine(): Command {
  const names = PEERS.map(({ name }) => name);
  return new Command('bench:peers')
    .description(
      'Run this package beside others that compute the same Mixture-of-Experts layer: each in a process of its own, held against ' +
        'this package’s result first, then timed by turns. Exits with 0, 1 (a result is wrong or a peer fails) or 2 (wrong usage).',
    )
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .option('--shape <shape...>', `${Object.keys(SHAPES).join(', ')}, or T,H,I,E,K`, Object.keys(SHAPES))
    .option(
      '--tokens <list>',
      `other numbers of tokens (default: the shape’s own, and ${DECODE_TOKENS} for ${DECODED.join(', ')})`,
    )
    .option('--dtype <list>', `any of ${FLOAT_DTYPES.join(', ')}`, 'float32')
    .option('--pass <list>', `any of ${PEER_PASSES.join(', ')}`, 'forward')
    .option('--peers <list>', `any of ${names.join(', ')} (default: those that are here or can be fetched)`)
    .option('--threads <count>', 'threads of each contender', '2')
    .option('--rounds <count>', 'turns of each contender', '15')
    .option('--min-time <seconds>', 'how long to measure each contender, all rounds together', '3')
    .option('--python <path>', 'a Python interpreter that has torch', 'python3')
    .option('--ggml <path>', 'a checkout of ggml, to build against')
    .addOption(new Option('--json', 'one JSON object per line').default(false));
}

async function run(options: Options): Promise<ExitCode> {
  const { json, python, ggml: ggmlSource } = options;
  const shapes = parseShapes(options);
  const dtypes = parseList('--dtype', options.dtype, FLOAT_DTYPES);
  const passes = parseList('--pass', options.pass, PEER_PASSES);
  const threads = checkInteger('--threads', Number(options.threads), 1, 1024);
  const rounds = checkInteger('--rounds', Number(options.rounds), FEWEST_VALUES, 1000);
  const minTimeMs = 1000 * checkPositive('--min-time', options.minTime);
  const peers = presentPeers(options);
  if (!json)
    printLine(
      `${processorName()}, ${availableParallelism()} cores, Node ${process.version}; up to ${rounds} rounds\n`,
    );
  let exitCode: ExitCode = 0;
  for (const [name, shape] of shapes) {
    for (const dtype of dtypes) {
      for (const pass of passes) {
        const task: Task = { shape, dtype, pass, threads };
        const result = await race(name, task, peers, { rounds, minTimeMs, python, ggml: ggmlSource });
        (json ? printRaceJson : printRace)(result, name, task);
        if (result.leftOut.some(({ because }) => because !== 'cannot')) exitCode = 1;
      }
    }
  }
  return exitCode;
}

/**
 * The peers asked for, or all that are here.
 * @throws MoeError ERR_UNSUPPORTED if one that was asked for is not here
 */
function presentPeers({ peers: asked, python, ggml: ggmlSource, json }: Options): Peer[] {
  const names = PEERS.map(({ name }) => name);
  const chosen = asked === undefined ? names : parseList('--peers', asked, names);
  return PEERS.filter(peer => {
    if (!chosen.includes(peer.name)) return false;
    const reason = peer.absent?.({ python, ggml: ggmlSource });
    if (reason === undefined) return true;
    if (asked !== undefined)
      throw badArgument('ERR_UNSUPPORTED', '--peers', `${peer.name} to be here`, reason);
    const leftOut: LeftOut = { contender: peer.name, because: 'absent', reason };
    if (json) printJson(leftOut);
    else printLine(describeLeftOut(leftOut));
    return false;
  });
}

function parseShapes({ shape: texts, tokens }: Options): [string, LayerShape][] {
  const counts = tokens === undefined ? undefined : parseCounts('--tokens', tokens);
  return texts.flatMap(text => {
    const shape = parseShape('--shape', text);
    const decode = DECODED.includes(text) ? DECODE_TOKENS : [];
    return (counts ?? [shape.tokens, ...decode]).map((T): [string, LayerShape] => [
      text,
      { ...shape, tokens: T },
    ]);
  });
}

// The folder with the layer is removed when the process exits, which it does by itself unless a signal ends it.
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));
process.exitCode = await main(process.argv.slice(2));
