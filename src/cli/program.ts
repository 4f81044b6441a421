// The commands, their options and their help. A command's own code is loaded when it runs, so that help, the version and
// usage errors need no native addon.

import { Command, CommanderError, Option } from 'commander';
import { PEER_NAMES } from '../../bench/peers/names.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { packageVersion } from '../package.ts';
import type { DeviceName } from '../tensor.ts';
import { type ExitCode, reportError } from './output.ts';

const EXIT_CODES = `
Exit codes:
  0  everything holds
  1  a result does not hold
  2  wrong usage, an unreadable file, or something unsupported`;

/** Runs one command line and returns its exit code; whatever goes wrong is said in one sentence on stderr. */
export async function runCommandLine(args: readonly string[]): Promise<ExitCode> {
  const json = args.includes('--json');
  let exitCode: ExitCode = 0;
  const program = commandLine(code => {
    exitCode = code;
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    return reportError(error, json);
  }
}

function commandLine(finish: (code: ExitCode) => void): Command {
  const program = new Command('moe-kernels')
    .description('Native Mixture-of-Experts kernels: what runs here, whether it is right, how fast it is.')
    .version(packageVersion())
    .exitOverride()
    // Errors are reported in one place, by runCommandLine.
    .configureOutput({ writeErr: () => {} })
    .addHelpText('after', EXIT_CODES);
  addInfo(program, finish);
  addVerify(program, finish);
  addBench(program, finish);
  addProfile(program, finish);
  addReport(program, finish);
  return program;
}

function addInfo(program: Command, finish: (code: ExitCode) => void): void {
  program
    .command('info')
    .description('version, binary, instruction set, threads and devices')
    .addOption(jsonOption())
    .action(async options => {
      const { info } = await import('./info.ts');
      finish(info(options));
    });
}

function addVerify(program: Command, finish: (code: ExitCode) => void): void {
  program
    .command('verify')
    .description('run golden cases forward and backward, and hold every result against its bound')
    .argument('<file...>', 'golden cases (.safetensors)')
    .addOption(deviceOption())
    .addOption(new Option('--dtype <dtype>', 'dtype of the layer').choices(FLOAT_DTYPES).default('float32'))
    .addOption(printConfigOption())
    .addOption(jsonOption())
    .addHelpText('after', EXIT_CODES)
    .action(async (files, options) => {
      printConfigWhere(options);
      const { verify } = await import('./verify.ts');
      finish(await verify(files, options));
    });
}

const BENCH_EXAMPLES = `
Examples:
  moe-kernels bench --shape mixtral-mini 64,512,256,8,2 --dtype float32,bfloat16
      two layers in two dtypes, forward and backward together
  moe-kernels bench --tokens 1,16,512 --threads 1,2 --pass forward --out found.jsonl
      six results, kept one by one: after Ctrl-C the same command goes on
  moe-kernels bench --shape olmoe olmoe:decode --router own,sigmoid-bias --dtype bfloat16
      a model's layer in prefill and in decode, with its own router and another
  moe-kernels bench --shape mixtral-8x7b --tokens 1,16,512 --dtype bfloat16 --vs onnxruntime-node --out mixtral.jsonl
  moe-kernels report mixtral.jsonl
      how long Mixtral's layer takes beside onnxruntime-node, as a page`;

/** By itself, or by an option that implies it. */
const GIVEN: readonly string[] = ['cli', 'implied'];

function addBench(program: Command, finish: (code: ExitCode) => void): void {
  program
    .command('bench')
    .description('check a layer of random weights against the reference, then time it')
    .addOption(shapeOption())
    .option('--list', 'print the names of shapes with what they are, and measure nothing')
    .addOption(tokensOption())
    .addOption(activationOption())
    .addOption(routersOption())
    .addOption(skewsOption())
    .addOption(dtypesOption())
    .addOption(passesOption(' (default: both, with --vs forward)'))
    .option(
      '--stage <list>',
      'single ops instead of passes: any of route, dispatch, up, down, combine, dgrad, wgrad, separated by commas',
    )
    .addOption(deviceOption())
    .option('--tf32', 'let GPUs round float32 operands of matmuls to tf32')
    .option('--graph <choice>', 'launch passes on a GPU as captured graphs: on, off, or both in turn', 'off')
    .addOption(threadsOption())
    .option(
      '--cache <list>',
      'cold (weights come from memory), warm (the same again), or both (default: cold, with --vs warm)',
    )
    .addOption(new Option('--warm', 'the same as --cache warm').implies({ cache: 'warm' }))
    .addOption(minTimeOption())
    .option('--max-time <seconds>', 'and at most (default: five times as long)')
    .option('--precision <percent>', 'how narrow a median’s interval is to become meanwhile', '2')
    .option(
      '--vs <list>',
      `other implementations to measure beside it, by turns: any of ${PEER_NAMES.join(', ')}, separated by commas; what they need from npm is fetched on first use`,
    )
    .option('--rounds <count>', 'with --vs: turns of each', '15')
    .option('--python <path>', 'with --vs torch: an interpreter that has it', 'python3')
    .option('--ggml <path>', 'with --vs ggml: a checkout of it, in a checkout of this package')
    .option(
      '--plan <file>',
      'JSON or YAML with any of shape, activation, tokens, router, skew, dtype, pass, stage, device, graph, threads, cache, minTime, maxTime, precision, vs, rounds; options override it',
    )
    .addOption(addToFileOption())
    .addOption(baselineOption('an earlier --out file to compare with; exits with 1 if anything is slower'))
    .addOption(toleranceOption())
    .addOption(new Option('--csv', 'CSV instead of a table').default(false).conflicts('json'))
    .addOption(printConfigOption())
    .addOption(jsonOption())
    .addHelpText('after', BENCH_EXAMPLES)
    .addHelpText(
      'after',
      `${EXIT_CODES}\n  130  stopped by Ctrl-C\nWith --baseline 1 also says that something is slower, with --vs that a peer\nfails or computes something else.`,
    )
    .action(async (options, command) => {
      printConfigWhere(options);
      const { bench } = await import('./bench.ts');
      finish(await bench(options, option => GIVEN.includes(command.getOptionValueSource(option) ?? '')));
    });
}

function addProfile(program: Command, finish: (code: ExitCode) => void): void {
  program
    .command('profile')
    .description('check a layer of random weights against the reference, then time its stages')
    .addOption(shapeOption())
    .addOption(tokensOption())
    .addOption(activationOption())
    .addOption(routersOption())
    .addOption(skewsOption())
    .addOption(dtypesOption())
    .addOption(passesOption().default('forward,backward'))
    .addOption(deviceOption())
    .addOption(threadsOption())
    .addOption(minTimeOption())
    .addOption(addToFileOption())
    .option(
      '--trace <file>',
      'write the first runs of what is measured as a Chrome trace (chrome://tracing, ui.perfetto.dev)',
    )
    .addOption(jsonOption())
    .addHelpText('after', EXIT_CODES)
    .action(async options => {
      const { profile } = await import('./profile.ts');
      finish(await profile(options));
    });
}

function addReport(program: Command, finish: (code: ExitCode) => void): void {
  program
    .command('report')
    .description('one HTML page, readable offline, about what bench and profile have measured')
    .argument('<file...>', 'results, as the --out of bench and profile writes them')
    .option('--out <file>', 'where to write the page; - is standard output', 'report.html')
    .addOption(baselineOption('earlier results to compare with'))
    .addOption(toleranceOption())
    .addOption(jsonOption())
    .addHelpText('after', EXIT_CODES)
    .action(async (files, options) => {
      const { report } = await import('./report.ts');
      finish(await report(files, options));
    });
}

const printConfigOption = () =>
  new Option('--print-config', 'say on stderr how each grouped matmul on a GPU is made').default(false);

/** The addon reads the variable when it first multiplies. */
function printConfigWhere({ printConfig }: { printConfig: boolean }): void {
  if (printConfig) process.env.MOE_KERNELS_PRINT_CONFIG = '1';
}

// What `bench` and `profile` measure.
const shapeOption = () =>
  new Option(
    '--shape <shape...>',
    'any of mixtral-mini, deepseek-mini, qwen3-mini, switch-mini, a model’s layer as bench --list names it, or T,H,I,E,K, separated by spaces',
  ).default(['mixtral-mini']);
const tokensOption = () =>
  new Option('--tokens <list>', 'other numbers of tokens, separated by commas (default: the shape’s own)');
const activationOption = () =>
  new Option('--activation <name>', 'activation of the experts (default: the shape’s own, else swiglu)');
const dtypesOption = () =>
  new Option('--dtype <list>', `any of ${FLOAT_DTYPES.join(', ')}, separated by commas`).default('float32');
const routersOption = () =>
  new Option(
    '--router <list>',
    'any of own, softmax, softmax-normalized, softmax-selected, sigmoid, sigmoid-bias, groups, sparsemixer, capacity, expert-choice, separated by commas (default: own)',
  );
const skewsOption = () =>
  new Option(
    '--skew <list>',
    'how rows are distributed over experts: any of router, uniform, zipf:S, one-hot, trace:FILE, separated by commas (default: router)',
  );
const passesOption = (unlessGiven = '') =>
  new Option('--pass <list>', `any of forward, backward, both, separated by commas${unlessGiven}`);
const threadsOption = () =>
  new Option(
    '--threads <list>',
    'numbers of threads of the CPU backend, separated by commas (default: every core)',
  );
const minTimeOption = () =>
  new Option('--min-time <seconds>', 'how long to measure each pass at least').default('2');
const addToFileOption = () =>
  new Option(
    '--out <file>',
    'add each result to a file of JSON lines; what the file has is not measured again',
  );

const baselineOption = (text: string) => new Option('--baseline <file>', text);
const toleranceOption = () =>
  new Option('--tolerance <percent>', 'how much longer than in the baseline still is the same').default('5');
const jsonOption = () => new Option('--json', 'one JSON object per line, errors included').default(false);
const deviceOption = () =>
  new Option('--device <device>', 'where to run').default('cpu' satisfies DeviceName);
