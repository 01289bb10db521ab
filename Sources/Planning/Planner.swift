import Catalog
import Core

extension RestorePlan {
  /// Computes how `input.services` come back from `input.point`.
  ///
  /// Pure: reads nothing, waits for nothing. What can't be done is in ``refusals``, all of it at once.
  /// O(*n* log *n* + *m*) in steps and gates.
  package static func make(_ input: PlanInput) -> RestorePlan {
    let scope = PlanScope(input)
    var plan = RestorePlan(
      id: "", catalogDigest: input.catalog.digest, pointID: input.point.id, pointTime: input.point.time,
      services: scope.services.map(\.name), stores: scope.stores.map(\.name), disturbed: scope.disturbed,
      invariants: scope.invariants, steps: [], criticalPath: CriticalPath(steps: [], seconds: 0, unknownSteps: 0),
      predictions: [], refusals: scope.refusals, warnings: scope.warnings)
    if scope.refusals.isEmpty, let graph = StepGraph(scope) {
      let estimates = Estimates(input.history, quantile: input.quantile)
      let forecast = Forecast(graph, estimates: estimates, point: input.point, limits: input.limits, scope: scope)
      plan.steps = forecast.steps
      plan.criticalPath = forecast.criticalPath
      plan.predictions = forecast.predictions
      plan.warnings += forecast.warnings
    } else if scope.refusals.isEmpty {
      plan.refusals.append(
        PlanNote(
          "PLAN-104", "the steps wait for each other in a circle", remedy: "check the catalog with `salvor validate`"))
    }
    plan.id = plan.derivedID()
    return plan
  }

  /// - Throws: ``PlanError/refused(_:)`` if it must not be run.
  package func checked() throws(PlanError) -> RestorePlan {
    guard refusals.isEmpty else { throw .refused(refusals) }
    return self
  }

  private func derivedID() -> String {
    var bytes: [UInt8] = []
    func add(_ text: String) {
      bytes.append(contentsOf: text.utf8)
      bytes.append(10)
    }
    add("salvor plan 1")
    add(catalogDigest.hex)
    add(pointID)
    add("\(pointTime.nanoseconds)")
    for service in services { add(service.text) }
    for store in stores { add(store.text) }
    for step in steps {
      add(step.id)
      for gate in step.dependsOn { add(gate) }
      add(step.predictedSeconds.map { String($0.bitPattern) } ?? "-")
      add(String(step.priority))
    }
    for note in refusals + warnings { add(note.description) }
    return "plan-" + bytes.withUnsafeBytes { Digest.of($0) }.hex.prefix(16)
  }
}
