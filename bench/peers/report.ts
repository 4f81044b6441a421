// What a race came to: a table for people, JSON lines for programs.

import { printJson, printLine, printTable } from '../../src/cli/output.ts';
import type { Task } from './peer.ts';
import type { LeftOut, Race, RaceResult } from './race.ts';

export function printRaceJson({ results, leftOut }: Race, name: string, { shape, dtype, pass }: Task): void {
  for (const result of results) printJson(result);
  for (const one of leftOut) printJson({ shape: name, dtype, pass, ...shape, ...one });
}

export function printRace({ results, leftOut }: Race, name: string, { shape, dtype, pass }: Task): void {
  const { tokens, hidden, intermediate, experts, topK, activation } = shape;
  const sizes = `T ${tokens}, H ${hidden}, I ${intermediate}, E ${experts}, K ${topK}`;
  const pair = pass === 'both' ? 'forward + backward' : pass;
  printLine(`${name}: ${sizes}, ${activation}, ${dtype}, ${pair}`);
  if (results.length > 0) {
    const head = ['contender', 'threads', 'median ms', 'p10 – p90', 'times ours (95 %)'];
    printTable(head, results.map(tableRow), ['left', 'right', 'right', 'right', 'right']);
    for (const { contender, version } of results) printLine(`  ${contender} ${version}`);
  }
  for (const one of leftOut) printLine(`  ${describeLeftOut(one)}`);
  printLine('');
}

const VERDICTS = {
  absent: 'is not here',
  cannot: 'is left out',
  failed: 'failed',
  wrong: 'is not timed',
} as const;

export function describeLeftOut({ contender, because, reason }: LeftOut): string {
  return `${contender} ${VERDICTS[because]}: ${reason}`;
}

/** The cells of a result, four digits each. */
export function tableRow({ contender, threads, medianMs, p10Ms, p90Ms, ratio }: RaceResult): string[] {
  const times = ratio
    ? `${digits(ratio.median, 3)} (${digits(ratio.low, 3)} – ${digits(ratio.high, 3)})`
    : '';
  return [contender, `${threads}`, digits(medianMs, 4), `${digits(p10Ms, 4)} – ${digits(p90Ms, 4)}`, times];
}

/** Never in powers of ten, which nobody reads in a table. */
function digits(value: number, count: number): string {
  const decimals = count - 1 - Math.floor(Math.log10(value));
  return value.toFixed(Math.min(6, Math.max(0, decimals)));
}
