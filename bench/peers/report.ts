// What a race came to: a table for people, JSON lines for programs.

import { digits, printJson, printLine, printTable } from '../../src/cli/output.ts';
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

/** The cells of a result: milliseconds of four digits down to the microsecond, ratios of three. */
export function tableRow({ contender, threads, medianMs, p10Ms, p90Ms, ratio }: RaceResult): string[] {
  const ms = (value: number) => digits(value, 4, 3);
  const times = (value: number) => digits(value, 3, 2);
  const interval = ratio ? `${times(ratio.median)} (${times(ratio.low)} – ${times(ratio.high)})` : '';
  return [contender, `${threads}`, ms(medianMs), `${ms(p10Ms)} – ${ms(p90Ms)}`, interval];
}
