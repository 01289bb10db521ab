import Core

/// All that is decided about a run before it begins; never changes afterwards.
package struct RunSpec: Sendable, Equatable, Codable, Identifiable {
  /// What to do when a step failed for good.
  package enum FailureResponse: String, Sendable, Codable {
    /// Leave things as they stand; the run can be resumed or rolled back by hand.
    case stop
    /// Undo what was done, last first.
    case rollback
  }

  package var id: RunID
  package var kind: RunKind
  /// One line for people.
  package var title: String
  /// The catalog the plan was made from.
  package var catalogDigest: Digest
  /// What the run as a whole was asked for; kept for the record and for evidence.
  package var input: JSONValue
  package var steps: [StepSpec]
  package var onFailure: FailureResponse
  /// Stores it replaces, ascending: from its creation to its end no other run may replace one, and nobody may read one
  /// while it is at work. `nil` if there are none.
  package var exclusiveStores: [StoreName]?
  /// Not part of ``digest``: a second try is made at another time.
  package var createdAt: Timestamp

  package init(
    id: RunID, kind: RunKind, title: String, catalogDigest: Digest, input: JSONValue = .null, steps: [StepSpec],
    onFailure: FailureResponse = .stop, exclusiveStores: Set<StoreName> = [], createdAt: Timestamp
  ) {
    (self.id, self.kind, self.title, self.catalogDigest) = (id, kind, title, catalogDigest)
    (self.input, self.steps, self.onFailure, self.createdAt) = (input, steps, onFailure, createdAt)
    self.exclusiveStores = exclusiveStores.isEmpty ? nil : exclusiveStores.sorted()
  }

  /// Names the plan: the same for every try, different for any other plan. Protects a run from being resumed as
  /// something else.
  package var digest: Digest {
    get throws(JournalError) {
      var timeless = self
      timeless.createdAt = Timestamp(nanoseconds: 0)
      do { return try CanonicalJSON.digest(timeless) } catch {
        throw .badSpec(id, why: "has a value that JSON can't hold: \(error)")
      }
    }
  }

  package func step(_ id: StepID) -> StepSpec? { steps.first { $0.id == id } }

  /// Checks that ids are unique, dependencies exist, and no step waits for itself. O(*n* + *edges*).
  package func validate() throws(JournalError) {
    var known: [StepID: Int] = [:]
    for step in steps {
      guard known.updateValue(step.dependsOn.count, forKey: step.id) == nil else {
        throw .badSpec(id, why: "step \(step.id) is there twice")
      }
    }
    var dependents: [StepID: [StepID]] = [:]
    for step in steps {
      for other in step.dependsOn {
        guard known[other] != nil else {
          throw .badSpec(id, why: "step \(step.id) waits for \(other), which isn't there")
        }
        dependents[other, default: []].append(step.id)
      }
    }
    var free = steps.filter(\.dependsOn.isEmpty).map(\.id)
    var reached = 0
    while let next = free.popLast() {
      reached += 1
      for dependent in dependents[next] ?? [] {
        let left = (known[dependent] ?? 0) - 1
        known[dependent] = left
        if left == 0 { free.append(dependent) }
      }
    }
    guard reached == steps.count else {
      let stuck = steps.map(\.id).filter { (known[$0] ?? 0) > 0 }.map(\.text).joined(separator: ", ")
      throw .badSpec(id, why: "steps wait for each other in a circle: \(stuck)")
    }
  }
}

/// One step of a plan. Every dependency is a gate on success.
package struct StepSpec: Sendable, Equatable, Identifiable {
  package var id: StepID
  package var kind: StepKind
  /// One line for people.
  package var title: String
  package var input: JSONValue
  package var dependsOn: Set<StepID>
  /// Of the steps that could start, the highest starts first; the planner puts the length of the path behind it here.
  package var priority: Int
  /// The limit this step counts against, such as `copy`; `nil` counts against parallelism only.
  package var resource: String?
  package var service: ServiceName?
  package var store: StoreName?
  /// Has something to undo when the run is rolled back.
  package var compensates: Bool

  package init(
    id: StepID, kind: StepKind, title: String, input: JSONValue = .null, dependsOn: Set<StepID> = [],
    priority: Int = 0, resource: String? = nil, service: ServiceName? = nil, store: StoreName? = nil,
    compensates: Bool = false
  ) {
    (self.id, self.kind, self.title, self.input) = (id, kind, title, input)
    (self.dependsOn, self.priority, self.resource) = (dependsOn, priority, resource)
    (self.service, self.store, self.compensates) = (service, store, compensates)
  }
}

extension StepSpec: Codable {
  private enum Key: String, CodingKey {
    case id, kind, title, input, dependsOn, priority, resource, service, store, compensates
  }

  package init(from decoder: any Decoder) throws {
    let values = try decoder.container(keyedBy: Key.self)
    id = try values.decode(StepID.self, forKey: .id)
    kind = try values.decode(StepKind.self, forKey: .kind)
    title = try values.decode(String.self, forKey: .title)
    input = try values.decodeIfPresent(JSONValue.self, forKey: .input) ?? .null
    dependsOn = Set(try values.decodeIfPresent([StepID].self, forKey: .dependsOn) ?? [])
    priority = try values.decodeIfPresent(Int.self, forKey: .priority) ?? 0
    resource = try values.decodeIfPresent(String.self, forKey: .resource)
    service = try values.decodeIfPresent(ServiceName.self, forKey: .service)
    store = try values.decodeIfPresent(StoreName.self, forKey: .store)
    compensates = try values.decodeIfPresent(Bool.self, forKey: .compensates) ?? false
  }

  package func encode(to encoder: any Encoder) throws {
    var values = encoder.container(keyedBy: Key.self)
    try values.encode(id, forKey: .id)
    try values.encode(kind, forKey: .kind)
    try values.encode(title, forKey: .title)
    try values.encode(input, forKey: .input)
    // A set has no order, a digest needs one.
    try values.encode(dependsOn.sorted(), forKey: .dependsOn)
    try values.encode(priority, forKey: .priority)
    try values.encodeIfPresent(resource, forKey: .resource)
    try values.encodeIfPresent(service, forKey: .service)
    try values.encodeIfPresent(store, forKey: .store)
    try values.encode(compensates, forKey: .compensates)
  }
}
