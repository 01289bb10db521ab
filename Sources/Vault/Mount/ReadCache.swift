import Core

/// What was read lately, within a limit; who asks for something that is being read waits for that.
actor ReadCache<Value: Sendable> {
  private struct Kept {
    var value: Value
    var costBytes: Int
    var used: UInt64
  }

  typealias Load = @Sendable (BlobID) async throws(VaultError) -> (value: Value, costBytes: Int)

  private let read: Load
  private let limitBytes: Int
  private var kept: [BlobID: Kept] = [:]
  private var bytes = 0
  private var clock: UInt64 = 0
  private var waiting: [BlobID: [CheckedContinuation<Result<Value, VaultError>, Never>]] = [:]

  /// - Parameter read: Also says what keeping it costs.
  init(limitBytes: Int, read: @escaping Load) { (self.limitBytes, self.read) = (limitBytes, read) }

  func load(_ id: BlobID) async throws(VaultError) -> Value {
    clock += 1
    if let found = kept[id] {
      kept[id]?.used = clock
      return found.value
    }
    if waiting[id] != nil {
      let result = await withCheckedContinuation { waiting[id, default: []].append($0) }
      return try result.get()
    }
    waiting[id] = []
    let result: Result<Value, VaultError>
    do throws(VaultError) {
      let (value, cost) = try await read(id)
      keep(id, value, cost)
      result = .success(value)
    } catch { result = .failure(error) }
    for waiter in waiting.removeValue(forKey: id) ?? [] { waiter.resume(returning: result) }
    return try result.get()
  }

  private func keep(_ id: BlobID, _ value: Value, _ cost: Int) {
    guard cost <= limitBytes, kept[id] == nil else { return }
    kept[id] = Kept(value: value, costBytes: cost, used: clock)
    bytes += cost
    guard bytes > limitBytes else { return }
    // A quarter at once: small ones are many, and looking for the oldest is not free.
    for (id, old) in kept.sorted(by: { $0.value.used < $1.value.used }) {
      if bytes <= limitBytes / 4 * 3 { break }
      kept[id] = nil
      bytes -= old.costBytes
    }
  }
}
