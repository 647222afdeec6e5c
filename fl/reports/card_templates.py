"""The templates of a model card and of a data-protection impact assessment.

`fl.reports.cards` fills in `$name`. `[[...]]` is a field that a person must fill in. The rest is plain text.

Sources: Mitchell et al., Model cards for model reporting, FAT* 2019 (sections of the model card); Regulation (EU)
2016/679 (GDPR), Article 35(7) (a) to (d) and, for what has to be asked, Articles 5, 6, 22, 25, 35(2), 35(9), 36.
"""

from __future__ import annotations

MODEL_CARD = """\
# Model card: $run_id

Written by `demos card` from what the run left. Lines that begin with **To be filled in** are for a person: the run
cannot know them, and this card is not finished while there are any.

## Model details

- $model_line that gives a transaction a score of fraud in [0, 1], from $feature_count
  features: $features.
- Trained at $banks banks $trained.$choice_lines$poisoning_lines
- $privacy_line
- $statistics_line
- Code: revision $git_revision; $versions. Seed $seed for data, first model and batches; none for keys and noise.
- [[who is responsible for this model, and whom to write to]]
- [[licence and version under which it is used]]

## Intended use

- Ranking $transactions for review by people, at a threshold of $threshold, chosen $threshold_rule.
- $calibration_line
- [[which process uses the scores, who sees an alert, and what may happen to a customer because of it]]
- [[uses that are out of scope]]

The score is no finding of guilt. It must not decide by itself about a customer (GDPR Article 22) unless the conditions
of that article are met: [[how a person reviews an alert, and how a customer is heard]]

## Factors

$fairness_lines
- [[groups that matter in law or in your market and that this data does not show]]

## Metrics

Average precision first, since fraud is rare: it averages precision over all thresholds. ROC-AUC beside it; precision,
recall and F1 at the threshold of best F1 on $validation_rows_of, $threshold_of_figures; $top_line. Accuracy is not
reported: a model that never warns would have
$never_warns.

## Data

- Source $source, schema $schema (SHA-256 $schema_sha256), $rows transactions of which $frauds are fraud, $span,
  divided into banks by $partition.
- Training: $train_rows rows ($train_frauds frauds). Validation, $validation_of: $validation_rows
  rows ($validation_frauds frauds). Test: $test_rows rows ($test_frauds frauds).
- Periods: $periods. $delay_line
- $blocked_line
- [[where the transactions come from, on which legal basis they are used, and how labels were made]]

## Results

$results_table

$window_line $alone_line

## Calibration, drift and reasons

$examination_lines

## Limits

- Not covered by differential privacy: $not_covered.
- $outside_line
- Baselines, validation and test figures were computed by someone who saw all labels, outside every budget.
- An average can be poisoned by a bank that sends a bad update: encryption hides updates, it does not judge them.
- Fraud changes. Figures hold for the $held_for above and for no others.
- [[when the model is trained again, and who watches drift alarms]]
"""

DPIA = """\
# Data-protection impact assessment: $run_id

Structured by Article 35(7) of the GDPR, written by `demos card` from what the run left. Lines that begin with **To be
filled in** are for a person. This is a draft for a data-protection officer, not legal advice, and not an assessment
while there are such lines.

- Controller(s): [[names and contacts of the banks; whether they are joint controllers under Article 26]]
- Advice of the data-protection officer (Article 35(2)): [[name, date, advice]]
- Views of data subjects or their representatives (Article 35(9)): [[sought how, or why not]]
- Prior consultation of the authority (Article 36): [[needed or not, and why]]

## (a) Description of the processing and its purposes

**Purpose.** A model that scores $transactions for fraud, trained by $banks banks together without showing each
other a transaction. [[the purpose in your words, and the legitimate interest if Article 6(1)(f) is the basis]]

**Data.** $rows transactions, $span ($source, schema $schema). Columns that are read: $columns.
Columns that must not become features: $never. [[categories of data subjects, and whether special categories (Article
9) can be inferred from any column, for example from merchants]]

**Operations.** Each bank computes features from its own past and $sends. $statistics_line

**Who receives what.**

$receives_table

**Storage.** The run's folder holds configuration, figures, ledgers, released totals and the model: no transaction and
no customer. Where counts were shared, the totals name the terminals they count. [[retention of the model, of the
ledgers, and of transactions at each bank]]

## (b) Necessity and proportionality

- Less intrusive than pooling: no transaction leaves its bank. What pooling would have brought on the same rows:
  $pooled_line
- Is working together needed at all? $alone_line
- Data minimisation (Article 5(1)(c)): $feature_count features are used. [[why each column is needed; which could go]]
- Legal basis (Article 6): [[basis per bank]]
- Information of data subjects, access, objection, erasure (Articles 12 to 21): [[how each is served; a trained model
  is not corrected by deleting a row]]
- Automated decisions (Article 22): [[none, or which safeguards]]
- Transfers to third countries: [[where aggregator and key holder run]]

## (c) Risks to rights and freedoms

$risks_table

[[risks of your own process: what an alert leads to, for whom it is worst, how likely]]

## (d) Measures, safeguards and mechanisms

- **Encryption and masks.** $aggregation_measure
- **Differential privacy.** $privacy_line Not covered: $not_covered. $outside_line
- **Shared counts.** $statistics_measure
- **Data protection by design (Article 25).** Public constants instead of statistics in features; no rows, identifiers
  or texts in logs, reports or run folders; a lifelong ledger per bank that refuses a run beyond its limit.
- **Quality.** $quality_line
- **Watching.** $drift_line
- [[organisational measures: contracts between banks, keys, access, incident plan, training of reviewers]]

## Outcome

- Residual risk: [[low, medium or high, by whom judged]]
- Decision and date: [[approved, approved with conditions, refused]]
- Next review: [[date, or the event that makes it necessary (Article 35(11))]]
"""
