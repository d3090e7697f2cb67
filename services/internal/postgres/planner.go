package postgres

// Planner are parameters of a worker's connection. They settle how PostgreSQL plans the workers' statements, of which nearly all look a
// batch of rows up by key. Left alone, the planner takes a batch of one row for a tenth of a small table and reads all of it, and plans
// anew at each execution, which costs more than the statement itself. So rows are met in the order of the batch: a statement that
// locks several has to say its own.
var Planner = map[string]string{
	"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
}
