package main

import (
	"fmt"
	"image/color"
	"os"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

var (
	blue   = color.RGBA{0x1f, 0x5f, 0xa8, 0xff}
	orange = color.RGBA{0xc8, 0x5a, 0x14, 0xff}
	gray   = color.RGBA{0x88, 0x88, 0x88, 0xff}
)

// A series is one line of a panel.
type series struct {
	name  string
	color color.Color
	of    func(sample) float64
}

// plot draws throughput, latency, memory and what else could leak, one below the other over the same time.
func (w *watch) plot(path string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	const mib = 1 << 20
	panels := []struct {
		title  string
		series []series
	}{
		{"logins per second (gray: a worker is stopped or killed)", []series{{"", blue, func(s sample) float64 { return s.Rate }}}},
		{"latency of granted logins, ms", []series{
			{"p50", blue, func(s sample) float64 { return milliseconds(s.P50) }},
			{"p99", orange, func(s sample) float64 { return milliseconds(s.P99) }}}},
		{"memory, MiB", []series{
			{"heap after a collection", blue, func(s sample) float64 { return s.Heap / mib }},
			{"resident", orange, func(s sample) float64 { return s.RSS / mib }}}},
		{"goroutines and descriptors", []series{
			{"goroutines", blue, func(s sample) float64 { return s.Goroutines }},
			{"descriptors", orange, func(s sample) float64 { return s.Files }}}},
	}
	rows := make([][]*plot.Plot, len(panels))
	for i, p := range panels {
		drawn, err := w.panel(p.title, p.series)
		if err != nil {
			return err
		}
		rows[i] = []*plot.Plot{drawn}
	}
	rows[len(rows)-1][0].X.Label.Text = "seconds"
	image := vgimg.NewWith(vgimg.UseWH(24*vg.Centimeter, vg.Length(len(rows))*7*vg.Centimeter), vgimg.UseBackgroundColor(color.White))
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadX: vg.Centimeter / 2, PadY: vg.Centimeter / 2, PadTop: vg.Centimeter / 2,
		PadBottom: vg.Centimeter / 2, PadLeft: vg.Centimeter / 2, PadRight: vg.Centimeter / 2}
	for i, canvas := range plot.Align(rows, tiles, draw.New(image)) {
		rows[i][0].Draw(canvas[0])
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := (vgimg.PngCanvas{Canvas: image}).WriteTo(f); err != nil {
		f.Close()
		return fmt.Errorf("plot: %w", err)
	}
	return f.Close()
}

func (w *watch) panel(title string, all []series) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	highest := 0.0
	for _, s := range all {
		points := make(plotter.XYs, len(w.samples))
		for i, at := range w.samples {
			points[i] = plotter.XY{X: at.At.Seconds(), Y: s.of(at)}
			highest = max(highest, points[i].Y)
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", title, err)
		}
		line.Color, line.Width = s.color, vg.Points(1.2)
		p.Add(line)
		if s.name != "" {
			p.Legend.Add(s.name, line)
		}
	}
	for _, at := range w.restarts {
		mark, err := plotter.NewLine(plotter.XYs{{X: at.Seconds(), Y: 0}, {X: at.Seconds(), Y: 0.04 * highest}})
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", title, err)
		}
		mark.Color = gray
		p.Add(mark)
	}
	p.Y.Max = 1.25 * highest // room for the legend
	return p, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
