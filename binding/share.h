// Shares of native objects that go with a JavaScript one.
#pragma once

#include <napi.h>

#include <memory>

namespace moe::binding {

template <class T>
Napi::Value share(Napi::Env env, std::shared_ptr<T> object) {
  return Napi::External<std::shared_ptr<T>>::New(
      env, new std::shared_ptr<T>(std::move(object)),
      [](Napi::BasicEnv, std::shared_ptr<T>* share) { delete share; });
}

template <class T>
std::shared_ptr<T>& shared(const Napi::Value& value) {
  return *value.As<Napi::External<std::shared_ptr<T>>>().Data();
}

}  // namespace moe::binding
