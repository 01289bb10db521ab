import Catalog
import Core

extension RestorePlan {
  /// The plan as a person reads it before it is run: what is done in which order, the critical path, and whether each
  /// service is back in time. One string per line, nothing longer than its content; no colour.
  ///
  /// - Parameter stepsPerWave: Longer waves are cut short after so many steps.
  package func table(stepsPerWave: Int = 20) -> [String] {
    var lines = [
      "\(id): \(count(services.count, "service")), \(count(stores.count, "store")), back to \(pointTime) (point \(pointID))"
    ]
    if !refusals.isEmpty {
      lines += ["", "refused, nothing was touched:"]
      lines += refusals.flatMap { note in
        ["  \(note.code)  \(note.message)"] + (note.remedy.map { ["            → \($0)"] } ?? [])
      }
    }
    lines += waves(limit: max(1, stepsPerWave)) + chain() + objectives()
    if !warnings.isEmpty {
      lines += ["", "worth knowing:"]
      lines += warnings.flatMap { note in
        ["  \(note.code)  \(note.message)"] + (note.remedy.map { ["            → \($0)"] } ?? [])
      }
    }
    return lines
  }

  private func waves(limit: Int) -> [String] {
    guard !steps.isEmpty else { return [] }
    let onPath = Set(criticalPath.steps)
    var rows: [[String]] = [["wave", "", "step", "predicted", "basis"]]
    var position = 0
    while position < steps.count {
      let wave = steps[position].wave
      let end = steps[position...].firstIndex { $0.wave != wave } ?? steps.count
      // What is on the critical path is never cut.
      let members = steps[position..<end]
      let shown = members.prefix(limit) + members.dropFirst(limit).filter { onPath.contains($0.id) }
      for (index, step) in shown.enumerated() {
        rows.append([
          index == 0 ? "\(wave)" : "", onPath.contains(step.id) ? "*" : "", step.id,
          step.predictedSeconds.map { Duration.seconds($0).brief } ?? "?", step.basis,
        ])
      }
      if shown.count < members.count { rows.append(["", "", "and \(members.count - shown.count) more", "", ""]) }
      position = end
    }
    return [""] + columns(rows)
  }

  private func chain() -> [String] {
    guard !criticalPath.steps.isEmpty else { return [] }
    let unknown =
      criticalPath.unknownSteps == 0 ? "" : ", \(count(criticalPath.unknownSteps, "step")) of it without history"
    let shown = criticalPath.steps.prefix(30).joined(separator: " → ") + (criticalPath.steps.count > 30 ? " → …" : "")
    return ["", "critical path (*): \(Duration.seconds(criticalPath.seconds).brief)\(unknown)", "  \(shown)"]
  }

  private func objectives() -> [String] {
    guard !predictions.isEmpty else { return [] }
    var rows: [[String]] = [["service", "back after", "objective", "verdict"]]
    for prediction in predictions {
      rows.append([
        prediction.service.text,
        (prediction.isComplete ? "" : "at least ") + Duration.seconds(prediction.seconds).brief,
        prediction.rtoSeconds.map { Duration.seconds($0).brief } ?? "none",
        prediction.verdict == .unknown
          ? "unknown, no history yet" : prediction.verdict == .none ? "" : prediction.verdict.rawValue,
      ])
    }
    return [""] + columns(rows)
  }
}

private func count(_ number: Int, _ noun: String) -> String { "\(number) \(noun)\(number == 1 ? "" : "s")" }

/// Rows of cells, each column as wide as its widest cell.
private func columns(_ rows: [[String]]) -> [String] {
  let widths = (0..<(rows.first?.count ?? 0)).map { column in rows.lazy.map { $0[column].count }.max() ?? 0 }
  return rows.map { row in
    var line = ""
    for (cell, width) in zip(row, widths) where width > 0 {
      line += cell + String(repeating: " ", count: width - cell.count + 2)
    }
    while line.last == " " { line.removeLast() }
    return line
  }
}
