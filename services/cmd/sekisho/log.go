package main

import (
	"bufio"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	logWait = 100 * time.Millisecond // how long a line may stay in memory, unless it is a warning or worse
	logSize = 64 << 10
)

// logs is where the log goes, unless it is a terminal.
var logs = newLogWriter(os.Stderr)

// A logWriter writes many lines at once: a busy process has several for each login, and each would be a system call.
type logWriter struct {
	mu    sync.Mutex
	out   *bufio.Writer
	flush *time.Timer
}

func newLogWriter(out io.Writer) *logWriter {
	w := &logWriter{out: bufio.NewWriterSize(out, logSize)}
	w.flush = time.AfterFunc(logWait, w.Flush)
	return w
}

// Flush writes what is in memory. Errors are for nobody: there is no other place to tell of them.
func (w *logWriter) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Flush()
}

func (w *logWriter) Write(line []byte) (int, error) { return w.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel is Write of a line of a level.
func (w *logWriter) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out.Buffered() == 0 {
		w.flush.Reset(logWait)
	}
	n, err := w.out.Write(line)
	if err == nil && level >= zerolog.WarnLevel {
		err = w.out.Flush()
	}
	return n, err
}
