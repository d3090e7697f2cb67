package bus_test

import (
	"testing"

	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
