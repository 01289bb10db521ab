import Core

extension Resolver {
  // MARK: Workflows

  mutating func workflow(_ declared: Declared<WorkflowManifest>) -> LoadWorkflow? {
    let spec = declared.spec
    var names: Set<CheckName> = []
    var known: Set<String> = []
    var steps: [LoadWorkflow.Step] = []
    for manifest in spec.steps {
      guard let step = manifest.step else { continue }
      if !names.insert(step.name).inserted {
        report(
          .duplicateName, declared.file, manifest.mark, "step '\(step.name)' is there twice", "rename one of them")
      }
      checkTemplates(of: step, at: manifest.mark, known, declared)
      known.formUnion(step.captures.keys)
      steps.append(step)
    }
    if steps.isEmpty {
      report(.missing, declared.file, declared.name.mark, "workflow '\(declared.name.value)' has no step", "add one")
    }
    guard let effects = spec.effects, !steps.isEmpty else { return nil }
    return LoadWorkflow(
      name: WorkflowName(unchecked: declared.name.value), description: spec.description, effects: effects,
      secrets: spec.secrets, data: spec.data, steps: steps, load: spec.load, bounds: spec.bounds)
  }

  private mutating func checkTemplates(
    of step: LoadWorkflow.Step, at mark: Mark, _ known: Set<String>, _ declared: Declared<WorkflowManifest>
  ) {
    for source in step.templates {
      let template: TemplateText
      do throws(TemplateText.Problem) { template = try TemplateText(source) } catch {
        report(
          .badValue, declared.file, mark, "in step '\(step.name)': \(error.text)",
          "write {{name}}, {{data.member}}, {{secret.name}}, {{number}}, {{uuid}}, {{int 1 100}}, {{hex 8}} or {{pick a b}}"
        )
        continue
      }
      for piece in template.pieces {
        switch piece {
        case .capture(let name) where !known.contains(name):
          dangling("value captured before step '\(step.name)' called", name, mark, declared.file, among: known.sorted())
        case .secret(let name) where declared.spec.secrets[name] == nil:
          dangling("secret", name, mark, declared.file, among: declared.spec.secrets.keys.sorted())
        case .data(let name) where declared.spec.data == nil:
          report(
            .missing, declared.file, mark, "'{{data.\(excerpt(name))}}' is asked for, and there is no data",
            "add 'data: /path/to/file.jsonl'")
        default: break
        }
      }
    }
  }

  /// Says so where a name leads nowhere.
  mutating func exists(_ name: Located<WorkflowName>, _ file: String) -> Bool {
    let names = manifests.workflows.map(\.name.value)
    if names.contains(name.value.text) { return true }
    dangling("workflow", name.value.text, name.mark, file, among: names.sorted())
    return false
  }

  // MARK: Metrics

  mutating func metric(_ declared: Declared<MetricManifest>) -> Metric? {
    let spec = declared.spec
    guard let store = spec.store, let query = spec.query, exists(store, declared.file) else { return nil }
    return Metric(
      name: CheckName(unchecked: declared.name.value), description: spec.description,
      source: StoreQuery(store: store.value, query: query), unit: spec.unit, least: spec.least, most: spec.most,
      changePerMillion: spec.change,
      trend: spec.trend.map { Metric.Trend(points: $0.points, changePerMillion: $0.change) })
  }
}

extension LoadWorkflow.Step {
  /// Every text of it that is filled in.
  package var templates: [String] {
    var result: [String]
    switch action {
    case .http(let request):
      result = [request.url] + request.headers.values.sorted() + (request.body.map { [$0] } ?? [])
    case .exec(let command): result = Array(command.words.dropFirst())
    }
    for expectation in expectations {
      switch expectation {
      case .header(_, .equals(let text)), .value(_, .equals(let text)), .text(.equals(let text)): result.append(text)
      default: break
      }
    }
    return result
  }
}
