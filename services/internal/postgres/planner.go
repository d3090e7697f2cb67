package postgres

// Planner are parameters of a worker's connection. They settle how PostgreSQL plans the workers' statements, nearly all of which look up
// a batch of rows by key. Left alone, the planner mistakes a batch of one row for a tenth of a small table and reads all of it, and plans
// anew at each execution, which costs more than the statement itself. With these parameters rows are met in the order of the batch, so
// a statement that locks several has to order them itself.
var Planner = map[string]string{
	"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
}
