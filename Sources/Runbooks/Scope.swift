import Core

/// What one runbook is about: everything, or one domain.
package struct Scope: Sendable, Equatable {
  /// `nil`: the whole system.
  package var domain: String?
  package var services: [RunbookFacts.Service]

  package static func all(of facts: RunbookFacts) -> [Scope] {
    [Scope(domain: nil, services: facts.services)]
      + facts.domainNames.map { name in Scope(domain: name, services: facts.services.filter { $0.domain == name }) }
  }

  package var title: String { domain.map { "Runbook: \($0)" } ?? "Runbook: the whole system" }

  /// The file's name without its ending; never leads out of its folder.
  package var file: String { domain.map { "domain-" + Self.slug($0) } ?? "system" }

  var serviceNames: [String] { services.map(\.name) }

  /// Any text as a name of a file: the same text always gives the same, and no two texts do.
  static func slug(_ text: String) -> String {
    let isPlain = { (byte: UInt8) in (97...122).contains(byte) || (48...57).contains(byte) || byte == 45 }
    if !text.isEmpty, text.utf8.count <= 63, text.utf8.allSatisfy(isPlain) { return text }
    let kept = text.lowercased().utf8.prefix(40).map { isPlain($0) ? Character(UnicodeScalar($0)) : "-" }
    return String(kept) + "-" + Digest.of(text).short
  }

  func stores(_ facts: RunbookFacts) -> [RunbookFacts.Store] {
    let own = Set(services.flatMap(\.stores))
    return facts.stores.filter { own.contains($0.name) }
  }

  /// The domain's duties and its services', each said once.
  func duties(_ facts: RunbookFacts) -> RunbookFacts.Duties {
    var result = RunbookFacts.Duties()
    let parts =
      (domain.map { [$0] } ?? facts.domainNames).compactMap { facts.domains[$0] } + services.map(\.duties)
    for part in parts {
      for approver in part.approvers where !result.approvers.contains(approver) { result.approvers.append(approver) }
      for call in part.escalation where !result.escalation.contains(call) { result.escalation.append(call) }
      for trigger in part.triggers where !result.triggers.contains(trigger) { result.triggers.append(trigger) }
      for check in part.completion where !result.completion.contains(check) { result.completion.append(check) }
    }
    result.escalation = result.escalation.enumerated().sorted {
      ($0.element.afterSeconds, $0.offset) < ($1.element.afterSeconds, $1.offset)
    }.map(\.element)
    return result
  }
}

extension RunbookFacts {
  func owner(of service: Service) -> String? {
    service.duties.owner ?? service.domain.flatMap { domains[$0]?.owner }
  }

  func impact(of service: Service) -> String? {
    service.duties.impact ?? service.domain.flatMap { domains[$0]?.impact }
  }

  func approvers(of service: Service) -> [String] {
    let own = service.duties.approvers
    return own + (service.domain.flatMap { domains[$0]?.approvers } ?? []).filter { !own.contains($0) }
  }

  func escalation(of service: Service) -> [Call] {
    let own = service.duties.escalation
    return own.isEmpty ? service.domain.flatMap { domains[$0]?.escalation } ?? [] : own
  }

  /// Services with those they need in front; names break ties.
  func inOrder(_ services: [Service]) -> [Service] {
    var (result, waiting) = ([Service](), services.sorted { $0.name < $1.name })
    let known = Set(waiting.map(\.name))
    var done: Set<String> = []
    while let index = waiting.firstIndex(where: { done.isSuperset(of: known.intersection($0.dependsOn)) }) {
      let service = waiting.remove(at: index)
      done.insert(service.name)
      result.append(service)
    }
    return result + waiting
  }

  /// Stores with those they need in front.
  func inOrder(_ stores: [Store]) -> [Store] {
    var (result, waiting) = ([Store](), stores.sorted { $0.name < $1.name })
    let known = Set(waiting.map(\.name))
    var done: Set<String> = []
    while let index = waiting.firstIndex(where: { done.isSuperset(of: known.intersection($0.dependsOn)) }) {
      let store = waiting.remove(at: index)
      done.insert(store.name)
      result.append(store)
    }
    return result + waiting
  }
}
