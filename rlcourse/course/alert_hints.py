"""What to think about when chapter 17's alert does not pass, by what is wrong with it."""

from __future__ import annotations

from rlcourse.course.alert_incident import POLICY

WITHIN_MIN = 30
"""So many minutes after the incident began the alert must have fired."""
OVER_MIN = 30
"""So many minutes after the repair it must have ended."""
HINTS = {
    "never": "The incident lasted an hour, and the alert never fired. The actions of a1 were nearly all alike: what share has "
    "the commonest action over some minutes, and what is the largest share on an ordinary day?",
    "unknown": "It reads a series that this plant does not have; the stub lists what is scraped. A query about nothing is "
    "answered with nothing, for ever, and that looks like health.",
    "service": "It reads series that speak of the service: how quick, how many errors. They were green all the time. What the "
    "policy *does* is counted in rl_actions_total.",
    "raw": "It reads a counter as it stands: all decisions since the start. After a long good day a bad hour hardly changes "
    "that. Ask for the last minutes, with rate(...[10m]) or increase(...[10m]).",
    "narrow": "A window is shorter than two scrapes: let one of them be late, and there is no rate. Use four scrapes or more; "
    "here one comes every minute.",
    "late": f"It caught the incident, but not within {WITHIN_MIN} minutes. A shorter window, or a shorter `for`, tells sooner.",
    "one action": "One incident it caught, and not another, in which the policy was stuck with another action. Ask for the "
    "largest share of *any* action: max by (policy) (...).",
    "nobody": f'The alert has no label policy="{POLICY}": whoever is woken does not know which policy is meant, and no route '
    "can tell. Keep the label: sum by (policy, ...) on both sides.",
    "ordinary": "It fires on an ordinary morning. The usual action comes to about half of all decisions at times, and one "
    "version or one minute is noisier than all together: raise the limit, or look at more decisions.",
    "spike": "It fires at a batch job of five minutes. Nobody could have done anything in that time. Let the condition last "
    "(`for`), or look at a longer window.",
    "night": "It fires in a quiet night: somebody asked once in two minutes and got the same answer each time. A share of a "
    "handful says nothing. Ask for a least number of decisions as well: ... and on (policy) sum by (policy) "
    "(rate(rl_actions_total[10m])) > 1.",
    "gap": "It fires when nothing can be scraped, or when the service comes back. No data is another fault, with another alert "
    "(TargetDown) and another first step: let no `or vector(...)` and no `absent` stand in for a missing share, and give the "
    "first minutes after a restart the time that a spike gets.",
    "busy": "It fires when there is more traffic than usual. It counts how *often* an action is taken: divide by all "
    "decisions.",
    "for ever": f"{OVER_MIN} minutes after the repair it still fires. Whoever repairs something must see that it helped: use a "
    "shorter window.",
    "severity": "Its label severity must be page or ticket: without one nobody is told (see the routes of this chapter).",
    "runbook": "It needs the annotations summary, first_step and runbook, none of them empty: somebody reads them at three in "
    "the morning.",
    "value": "A text holds $value. It changes at each evaluation, and one incident then looks like many. Leave numbers to the "
    "dashboard.",
}
"""Hints by what is wrong."""
