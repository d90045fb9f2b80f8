"""The commands `hklflow calibration ...`: propose, judge, accept and inspect geometries."""

from cyclopts import App

from hklflow.cli.calibration.compare import compare
from hklflow.cli.calibration.inspect import (
    affected,
    apply,
    list_all,
    reindex,
    show,
    states,
    verify,
)
from hklflow.cli.calibration.judge import accept, copy, reject, withdraw
from hklflow.cli.calibration.make import cancel, init_state, iterate, propose

app = App(
    name="calibration",
    help="Geometries of the store: proposed, judged, accepted for a range of runs, used.",
)
app.command(init_state, name="init")
app.command(propose)
app.command(iterate)
app.command(compare)
app.command(accept)
app.command(reject)
app.command(cancel)
app.command(withdraw)
app.command(copy)
app.command(list_all, name="list")
app.command(show)
app.command(apply)
app.command(affected)
app.command(states)
app.command(reindex)
app.command(verify)
