// Shows the explanation of the answer a reader picks, and counts the questions answered right at the first try.
"use strict";

for (const form of document.querySelectorAll("form.rlc-quiz")) {
  const questions = [...form.querySelectorAll("fieldset")];
  const firstTries = new Map();
  const score = document.createElement("p");
  score.className = "rlc-score";
  score.setAttribute("role", "status");
  form.append(score);

  form.addEventListener("submit", (event) => event.preventDefault());

  for (const question of questions) {
    const buttons = [...question.querySelectorAll("input")];
    const reasons = [...question.querySelectorAll(".rlc-feedback > p")];
    question.addEventListener("change", (event) => {
      const picked = buttons.indexOf(event.target);
      reasons.forEach((reason, n) => { reason.hidden = n !== picked; });
      buttons.forEach((button, n) => {
        const choice = button.closest(".rlc-choice");
        choice.classList.toggle("rlc-right", n === picked && isRight(reasons[n]));
        choice.classList.toggle("rlc-wrong", n === picked && !isRight(reasons[n]));
      });
      if (!firstTries.has(question)) firstTries.set(question, isRight(reasons[picked]));
      if (firstTries.size === questions.length) {
        const right = [...firstTries.values()].filter(Boolean).length;
        score.textContent = `${right} of ${questions.length} right at the first try.`;
      }
    });
  }
}

function isRight(reason) {
  return reason.classList.contains("rlc-right");
}
