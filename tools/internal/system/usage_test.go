package system

import (
	"os"
	"os/exec"
	"testing"
)

func TestParseStat(t *testing.T) {
	got, err := parseStat("4242 (a (strange) name) S 17 4242 4242 0 -1 4194304 100 0 0 0 5 6 7 8 20 0 1 0 12345 0 0\n")
	if err != nil || got != (stat{4242, 17, [4]int64{5, 6, 7, 8}}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "1 (x) S", "x (x) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "1 (x) S 1 1 1 1 1 1 1 1 1 1 1 x 1 1 1"} {
		if _, err := parseStat(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// What a child has used counts, while it runs and after it has ended.
func TestCPUOfDescendants(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read wait")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	alone, err := CPU(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	during, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if alone < 5*tick || during-before < alone {
		t.Errorf("the child used %v, both %v", alone, during-before)
	}
	in.Close()
	if err := child.Wait(); err == nil {
		t.Error("the child read something")
	}
	if after, err := CPU(os.Getpid()); err != nil || after-before < alone {
		t.Errorf("after its end %v, %v", after-before, err)
	}
	if _, err := CPU(0); err == nil {
		t.Error("there is no process 0")
	}
}
