// How far a campaign is, for whoever watches it on a terminal; nothing where nobody does.

import cliProgress from 'cli-progress';

export class BenchProgress {
  readonly #bar: cliProgress.SingleBar | undefined;
  readonly #total: number;
  readonly #began = performance.now();
  #finished = 0;

  constructor(total: number, visible: boolean) {
    this.#total = total;
    if (visible)
      this.#bar = new cliProgress.SingleBar({ format: '{bar} {value}/{total}, {left}: {key}', ...LOOK });
  }

  /** Says what comes next. */
  show(key: string): void {
    this.hide();
    this.#bar?.start(this.#total, this.#finished, { key, left: this.#timeLeft() });
  }

  finishOne(): void {
    this.#finished++;
  }

  /** Before something else is printed. */
  hide(): void {
    this.#bar?.stop();
  }

  #timeLeft(): string {
    if (this.#finished === 0) return '? left';
    const perCase = (performance.now() - this.#began) / this.#finished;
    const seconds = Math.round((perCase * (this.#total - this.#finished)) / 1000);
    return `${cliProgress.Format.TimeFormat(seconds, LOOK, 1)} left`;
  }
}

const LOOK = {
  ...{ barsize: 10, barCompleteChar: '█', barIncompleteChar: '░', stream: process.stderr },
  ...{ clearOnComplete: true, hideCursor: true, gracefulExit: false, autopaddingChar: '', fps: 1 },
};
