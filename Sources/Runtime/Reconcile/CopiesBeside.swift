import Catalog
import Core
import DriverKit
import Recovery
import StateKit

/// A store's copy that was brought back beside its live state, to be asked or compared; given up afterwards.
struct CopyBeside: Sendable {
  var store: StoreName
  var driver: any DataStoreDriver
  var request: RestoreRequest
  var state: RestoredState
}

/// Which state of a store is meant.
package enum StoreMoment: Sendable, Equatable, CustomStringConvertible {
  case live
  /// A point's id, or its beginning.
  case point(String)
  case time(Timestamp)

  package init(_ text: String) {
    if text == "live" {
      self = .live
    } else if let time = Timestamp(text) {
      self = .time(time)
    } else {
      self = .point(text)
    }
  }

  package var description: String {
    switch self {
    case .live: "live"
    case .point(let id): id
    case .time(let time): time.description
    }
  }
}

extension ManagedSystem {
  /// Restores beside, runs `body`, and gives up what was restored, whatever came of it.
  ///
  /// - Parameter name: Names the workspaces; one that another try left is cleared.
  func withCopy<T: Sendable>(
    of store: StoreName, _ copy: StoreCopy, name: String, _ body: @Sendable (CopyBeside) async throws -> T
  ) async throws -> T {
    let driver = try driver(of: store)
    var request = RestoreRequest(id: name, source: copy.source, capture: copy.capture)
    if let replay = copy.replay {
      request.replay = replay
      // What was recorded at the mark says nothing about a later moment; that there is a digest is asked of the copy.
    }
    try? await driver.discardKept(request)
    let result: Result<T, any Error>
    do {
      let state = try await driver.restoreBeside(request)
      result = .success(try await body(CopyBeside(store: store, driver: driver, request: request, state: state)))
    } catch { result = .failure(error) }
    do { try await driver.discardKept(request) } catch {
      host.log("warning: a copy of \(store) beside could not be removed: \(AnyFailure(error).report)")
    }
    return try result.get()
  }

  /// The copies of several stores, all beside at once.
  func withCopies<T: Sendable>(
    _ copies: ArraySlice<(StoreName, StoreCopy)>, name: String, _ have: [StoreName: CopyBeside] = [:],
    _ body: @escaping @Sendable ([StoreName: CopyBeside]) async throws -> T
  ) async throws -> T {
    guard let (store, copy) = copies.first else { return try await body(have) }
    return try await withCopy(of: store, copy, name: name) { beside in
      var more = have
      more[store] = beside
      return try await withCopies(copies.dropFirst(), name: name, more, body)
    }
  }

  /// What stores come back from at a moment.
  ///
  /// - Returns: The point's id, or the time, and the copies.
  func copies(
    of stores: [StoreName], at moment: StoreMoment
  ) async throws -> (source: String, copies: [(StoreName, StoreCopy)]) {
    switch moment {
    case .live: return (moment.description, [])
    case .point(let id):
      let chosen = try await PointSelection(system: self).chooseGood(stores, named: id == "latest" ? nil : id)
      let environment = LiveRestore(
        system: self, point: chosen.point, forwards: chosen.forwards, invariantNames: [])
      var copies: [(StoreName, StoreCopy)] = []
      for store in stores { copies.append((store, try await environment.copy(of: store))) }
      return (chosen.point.id.text, copies)
    case .time(let time):
      var copies: [(StoreName, StoreCopy)] = []
      for store in stores {
        guard let forward = try await firstGood(try await Logs(self).forwards(store, to: .time(time)), of: store) else {
          throw RecoveryError.logLagsBehind(store, target: time.description, why: "no copy leads there")
        }
        copies.append((store, try await self.copy(of: store, along: forward)))
      }
      return (time.description, copies)
    }
  }

  /// The first way whose copy verifies; what was passed over for it is told.
  func firstGood(_ ways: [LogForward], of store: StoreName) async throws -> LogForward? {
    for way in ways {
      do throws(AnyFailure) {
        _ = try await PointSelection(system: self)
          .choose(stores: [store], named: way.point.text, at: nil, verifies: true, progress: { _ in })
        return way
      } catch {
        guard case RecoveryError.pointDamaged(_, let why)? = error.underlying as? RecoveryError else { throw error }
        host.log("passed over \(way.point): \(why)")
      }
    }
    return nil
  }

  /// A copy, and its log as far as a way leads.
  func copy(of store: StoreName, along forward: LogForward) async throws -> StoreCopy {
    let chosen = try await PointSelection(system: self).choose(
      stores: [store], named: forward.point.text, at: nil, verifies: false, progress: { _ in })
    return try await LiveRestore(system: self, point: chosen.point, forwards: [forward], invariantNames: [])
      .copy(of: store)
  }
}
