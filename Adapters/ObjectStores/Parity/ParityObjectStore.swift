import Core
import Synchronization
import Vault

/// Writes parity for every object that is stored, and removes it with the object.
///
/// The object is durable before its parity is begun. Parity that can't be written fails nothing: see ``problem``.
package final class ParityObjectStore: ObjectStore {
  private let base: any ObjectStore
  package let parity: ParityStore
  private let state = Mutex<String?>(nil)

  package var location: String { base.location }

  /// Why some parity could not be written, if any couldn't.
  package var problem: String? { state.withLock { $0 } }

  package init(_ base: any ObjectStore, _ parity: ParityStore) { (self.base, self.parity) = (base, parity) }

  package func prepare() async throws(StoreError) { try await base.prepare() }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await base.put(name, bytes)
    if name.kind == .lock { return }
    await noting { () throws(StoreError) in
      try await parity.add(name, bytes)
      if name.kind == .snapshot || name.kind == .key { try await parity.flush() }
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] { try await base.get(name) }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await base.get(name, range: range)
  }

  package func getMetadata(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await base.getMetadata(name, range: range)
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] { try await base.list(kind) }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? { try await base.size(of: name) }

  package func replace(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await parity.replace(name, bytes, in: base)
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await base.delete(name)
    if name.kind == .lock { return }
    await noting { () throws(StoreError) in try await parity.remove(name) }
  }

  package var listsAtOnce: Bool { get async { await base.listsAtOnce } }

  package var locksObjects: Bool { base.locksObjects }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? { try await base.lock(on: name) }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    try await base.setLock(change, on: name)
  }

  /// Writes down what is not written down yet.
  package func finish() async {
    await noting { () throws(StoreError) in try await parity.flush() }
  }

  private func noting(_ body: () async throws(StoreError) -> Void) async {
    do throws(StoreError) { try await body() } catch {
      let reason = error.report.summary
      state.withLock { $0 = $0 ?? reason }
    }
  }
}
